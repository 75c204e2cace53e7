package uring_test

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/internal/uring"
)

func ring(t *testing.T, o uring.Options) *uring.Ring {
	t.Helper()
	r, err := uring.New(8, o)
	if errors.Is(err, uring.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// TestPoll waits for an event of another goroutine, again and again, on every
// kind of ring.
func TestPoll(t *testing.T) {
	for _, o := range []uring.Options{{}, {SQE128: true}, {SingleIssuer: true}, {SQE128: true, SingleIssuer: true}} {
		runtime.LockOSThread()
		r := ring(t, o)
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		s := r.Next()
		if want := 16; !o.SQE128 && len(r.Cmd(s)) != want || o.SQE128 && len(r.Cmd(s)) != want+64 {
			t.Errorf("%+v: %d bytes of command", o, len(r.Cmd(s)))
		}
		s.Opcode, s.FD, s.Len, s.OpFlags, s.UserData = uring.OpPollAdd, int32(fd), uring.PollMulti, unix.POLLIN, 42
		if err := r.Enter(0); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.Pop(); ok {
			t.Errorf("%+v: an event before there was one", o)
		}
		for range 40 { // more than the ring has places
			go func() {
				if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
					t.Error(err)
				}
			}()
			c, ok := r.Pop()
			for !ok {
				if err := r.Enter(1); err != nil {
					t.Fatal(err)
				}
				c, ok = r.Pop()
			}
			if c.UserData != 42 || c.Res&unix.POLLIN == 0 || !c.More() {
				t.Fatalf("%+v: completion %+v", o, c)
			}
		}
		runtime.UnlockOSThread()
	}
}

// TestFull fills the queue: there is no place until Enter.
func TestFull(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := ring(t, uring.Options{SingleIssuer: true})
	for round := range 5 {
		n := 0
		for s := r.Next(); s != nil; s = r.Next() {
			s.Opcode, s.FD, s.UserData = uring.OpURingCmd, -1, uint64(n) // no such file
			n++
		}
		if n != 8 {
			t.Fatalf("round %d: %d places", round, n)
		}
		seen := make(map[uint64]bool)
		for len(seen) < n {
			if err := r.Enter(1); err != nil {
				t.Fatal(err)
			}
			for c, ok := r.Pop(); ok; c, ok = r.Pop() {
				if c.Res != -int32(unix.EBADF) || seen[c.UserData] {
					t.Fatalf("completion %+v", c)
				}
				seen[c.UserData] = true
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := ring(t, uring.Options{SingleIssuer: true})
	if a := testing.AllocsPerRun(100, func() {
		s := r.Next()
		s.Opcode, s.FD = uring.OpURingCmd, -1
		r.Cmd(s)[0] = 1
		if err := r.Enter(1); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.Pop(); !ok {
			t.Fatal("no completion")
		}
	}); a != 0 {
		t.Errorf("%v allocations per command", a)
	}
}
