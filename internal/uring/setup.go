package uring

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options of a ring.
type Options struct {
	// SQE128 makes entries of 128 bytes, for commands of up to 80 bytes.
	SQE128 bool
	// SingleIssuer promises that only the calling thread will use the ring,
	// which spares locks, and lets completions wait until that thread asks for
	// them in Enter instead of interrupting it. Kernels before 6.1 do without.
	SingleIssuer bool
}

// Flags of io_uring_setup(2), IORING_SETUP_*.
const (
	setupCoopTaskrun  = 1 << 8
	setupSQE128       = 1 << 10
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13
)

const featSingleMmap = 1 << 0 // IORING_FEAT_SINGLE_MMAP

// Where mmap(2) finds the parts, IORING_OFF_*.
const (
	offSQRing = 0
	offSQEs   = 0x10000000
)

const enterGetEvents = 1 << 0 // IORING_ENTER_GETEVENTS

func (o Options) flags() uint32 {
	var f uint32
	if o.SQE128 {
		f |= setupSQE128
	}
	if o.SingleIssuer {
		f |= setupCoopTaskrun | setupSingleIssuer | setupDeferTaskrun
	}
	return f
}

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries      uint32
	flags                     uint32
	sqThreadCPU, sqThreadIdle uint32
	features                  uint32
	wqFD                      uint32
	_                         [3]uint32
	sq                        struct { // struct io_sqring_offsets
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		userAddr                                                    uint64
	}
	cq struct { // struct io_cqring_offsets
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		userAddr                                                    uint64
	}
}

// paramsSize is the size of the kernel's struct, checked as in sqe.go.
const paramsSize = 120

const (
	_ = uint(unsafe.Sizeof(params{}) - paramsSize)
	_ = uint(paramsSize - unsafe.Sizeof(params{}))
)

// setup makes a ring. What a kernel is too old for is left out, as long as the
// ring works without.
func setup(entries uint32, p *params) (int, error) {
	want := p.flags
	for _, spare := range []uint32{0, setupDeferTaskrun, setupSingleIssuer, setupCoopTaskrun} {
		want &^= spare
		*p = params{flags: want}
		fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
		switch {
		case errno == 0:
			return int(fd), nil // close-on-exec by the kernel
		case errno == unix.EINVAL:
			continue
		case errors.Is(errno, unix.ENOSYS), errors.Is(errno, unix.EPERM):
			return -1, fmt.Errorf("%w: %w (kernel 6.0 or later; see sysctl kernel.io_uring_disabled)", ErrUnsupported, errno)
		}
		return -1, fmt.Errorf("making an io_uring of %d entries: %w", entries, errno)
	}
	return -1, fmt.Errorf("%w: this kernel refuses %d entries with flags %#x", ErrUnsupported, entries, want)
}

// enter is io_uring_enter(2). It returns how many entries the kernel took.
func enter(fd int, submit, wait uint32) (uint32, error) {
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(wait), enterGetEvents, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return uint32(n), nil
}
