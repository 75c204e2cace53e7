package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported says that this kernel has no io_uring for us: it is older than
// what is asked of it, was built without, or forbids it (sysctl
// kernel.io_uring_disabled, a seccomp filter).
var ErrUnsupported = errors.New("no io_uring")

// Ring is one io_uring.
type Ring struct {
	fd    int
	setup uint32 // flags that the kernel took
	mem   []byte // both rings
	sqes  []byte
	size  uint32 // bytes of an SQE

	sqHead, sqTail *uint32 // the kernel moves the head, we the tail
	sqMask         uint32
	tail           uint32 // ours, of which the kernel knows at Enter
	sent           uint32 // up to here the kernel was told of

	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []byte
}

// New makes a ring for at least entries submissions at a time. Twice as many
// completions fit; Pop them before there are more.
func New(entries int, o Options) (*Ring, error) {
	p := params{flags: o.flags()}
	fd, err := setup(uint32(entries), &p)
	if err != nil {
		return nil, err
	}
	r := &Ring{fd: fd, setup: p.flags, size: sqeSize}
	if o.SQE128 {
		r.size = sqe128Size
	}
	if p.features&featSingleMmap == 0 { // since 5.4
		return nil, errors.Join(fmt.Errorf("%w: it maps its queues one by one, as before 5.4", ErrUnsupported), r.Close())
	}
	n := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*cqeSize)
	const how, prot = unix.MAP_SHARED | unix.MAP_POPULATE, unix.PROT_READ | unix.PROT_WRITE
	if r.mem, err = unix.Mmap(fd, offSQRing, int(n), prot, how); err == nil {
		r.sqes, err = unix.Mmap(fd, offSQEs, int(p.sqEntries*r.size), prot, how)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mapping an io_uring of %d entries: %w", entries, err), r.Close())
	}
	r.sqHead, r.sqTail = r.word(p.sq.head), r.word(p.sq.tail)
	r.cqHead, r.cqTail = r.word(p.cq.head), r.word(p.cq.tail)
	r.sqMask, r.cqMask = *r.word(p.sq.ringMask), *r.word(p.cq.ringMask)
	r.cqes = r.mem[p.cq.cqes:][:p.cqEntries*cqeSize]
	for i := range p.sqEntries { // place i of the queue is entry i, for good
		*r.word(p.sq.array + 4*i) = i
	}
	return r, nil
}

func (r *Ring) word(at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[at])) }

// Next is a zeroed entry to fill, or nil when the queue is full until Enter.
func (r *Ring) Next() *SQE {
	if r.tail-atomic.LoadUint32(r.sqHead) > r.sqMask {
		return nil
	}
	mem := r.sqes[(r.tail&r.sqMask)*r.size:][:r.size]
	clear(mem)
	r.tail++
	return (*SQE)(unsafe.Pointer(&mem[0]))
}

// Cmd is what the driver gets with an entry of this ring: 16 bytes, or 80 with
// Options.SQE128.
func (r *Ring) Cmd(s *SQE) []byte {
	return unsafe.Slice(&s.cmd[0], r.size-cmdAt)
}

// Enter submits what Next gave and waits until at least wait completions are
// there to Pop. It returns early when a signal comes. The thread blocks in the
// system call, and the runtime schedules other goroutines meanwhile.
func (r *Ring) Enter(wait int) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	n, err := enter(r.fd, r.tail-r.sent, uint32(wait))
	r.sent += n
	return r.entered(err)
}

// pause is how long a kernel that is short of memory is left alone. A thread of
// real-time priority that asked again at once would keep others from making some.
const pause = 50 * time.Microsecond

// entered is what Enter makes of the kernel's answer.
func (r *Ring) entered(err error) error {
	switch {
	case err == nil, errors.Is(err, unix.EINTR):
		return nil
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EAGAIN):
		// Completions overflowed or the kernel is short of memory: what is
		// there has to be taken first, then it can be tried again.
		if *r.cqHead == atomic.LoadUint32(r.cqTail) {
			ts := unix.NsecToTimespec(int64(pause))
			_ = unix.Nanosleep(&ts, nil) // a signal may end it
		}
		return nil
	}
	return fmt.Errorf("io_uring_enter: %w", err)
}

// Pop takes the next completion, if one is there. With DeferTaskrun completions
// appear only in Enter.
func (r *Ring) Pop() (CQE, bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return CQE{}, false
	}
	c := *(*CQE)(unsafe.Pointer(&r.cqes[(head&r.cqMask)*cqeSize]))
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

// Close gives the ring back. The kernel cancels what is in flight.
func (r *Ring) Close() error {
	var errs []error
	for _, m := range []*[]byte{&r.mem, &r.sqes} {
		if *m != nil {
			errs = append(errs, unix.Munmap(*m))
			*m = nil
		}
	}
	if r.fd >= 0 {
		errs = append(errs, unix.Close(r.fd))
		r.fd = -1
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing an io_uring: %w", err)
	}
	return nil
}
