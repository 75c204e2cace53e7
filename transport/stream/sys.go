package stream

import (
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVec is the most buffers of one readv or writev. 32 pages with as many
// separate headers fit, and the kernel's own limit is 1024.
const maxVec = 256

// vec is a reusable vector of buffers. It lives on the heap with its owner, so
// that the kernel can be given its address.
type vec struct {
	n   int
	iov [maxVec]unix.Iovec
}

func (v *vec) reset() {
	// Drop the pointers, or memory would stay reachable until overwritten.
	clear(v.iov[:v.n])
	v.n = 0
}

func (v *vec) full() bool { return v.n == maxVec }

func (v *vec) add(b []byte) {
	if len(b) == 0 {
		return
	}
	v.iov[v.n].Base = unsafe.SliceData(b)
	v.iov[v.n].SetLen(len(b))
	v.n++
}

// rw makes one readv or writev on fd, again when a signal interrupted it.
func (v *vec) rw(trap, fd uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&v.iov[0])), uintptr(v.n))
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

func rawConn(c net.Conn) (syscall.RawConn, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("stream: %T is not a socket", c)
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("stream: descriptor of connection: %w", err)
	}
	return rc, nil
}
