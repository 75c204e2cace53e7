//go:build fabric && cgo

package fabric

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper waits for a descriptor of libfabric or for wake, with the runtime's
// poller: a goroutine sleeps, not a thread. It is an epoll(7) of both, which the
// poller watches.
type sleeper struct {
	f      *os.File // the epoll
	rc     syscall.RawConn
	waker  int // an eventfd
	awake  func() bool
	attend func(uintptr) bool // rings off, and looks
}

// newSleeper makes one for fd, which stays the caller's.
func newSleeper(fd int) (*sleeper, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making something to sleep on: %w", err)
	}
	s := &sleeper{waker: -1}
	fail := func(err error) (*sleeper, error) {
		_ = unix.Close(ep)
		if s.waker >= 0 {
			_ = unix.Close(s.waker)
		}
		return nil, fmt.Errorf("making something to sleep on: %w", err)
	}
	if s.waker, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fail(err)
	}
	for _, d := range []int{fd, s.waker} {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, d, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(d)}); err != nil {
			return fail(err)
		}
	}
	if err := unix.SetNonblock(ep, true); err != nil { // os.NewFile uses the poller for such only
		return fail(err)
	}
	s.f = os.NewFile(uintptr(ep), "completion queue")
	if s.rc, err = s.f.SyscallConn(); err != nil {
		s.close()
		return nil, fmt.Errorf("making something to sleep on: %w", err)
	}
	s.attend = func(uintptr) bool {
		var b [8]byte
		_, _ = unix.Read(s.waker, b[:]) // nothing there: not rung
		return s.awake()
	}
	return s, nil
}

// wait returns when awake, which it calls after each event and once before,
// reports true, or after d. Below zero: no limit.
func (s *sleeper) wait(d time.Duration, awake func() bool) error {
	s.awake = awake
	var until time.Time
	if d >= 0 {
		until = time.Now().Add(d)
	}
	if err := s.f.SetReadDeadline(until); err != nil {
		return fmt.Errorf("waiting for completions: %w", err)
	}
	if err := s.rc.Read(s.attend); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for completions: %w", err)
	}
	return nil
}

// wake makes wait look. Any goroutine.
func (s *sleeper) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(s.waker, one[:]) // full: it will look anyway
}

func (s *sleeper) close() {
	_ = s.f.Close() // nothing was written
	_ = unix.Close(s.waker)
}
