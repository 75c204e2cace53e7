package ublk

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/client"
	"dmps/internal/uring"
)

// charDev is an open /dev/ublkcN.
type charDev struct{ fd int }

func (c *charDev) Close() error {
	if err := unix.Close(c.fd); err != nil {
		return fmt.Errorf("closing a ublk device: %w", err)
	}
	return nil
}

// queuePort is the port of a real queue: a ring of its own, in which commands
// to the device wait for requests and a poll waits for wake-ups.
type queuePort struct {
	queue uint16
	depth int
	ring  *uring.Ring
	bell  int // eventfd
	dev   int // the character device; its owner is the server
	descs []byte
	iov   []unix.Iovec
}

// What comes back in a completion, beside tags.
const userBell = 1 << 32

func newPort(q, depth int) (*queuePort, error) {
	p := &queuePort{queue: uint16(q), depth: depth, bell: -1, dev: -1, iov: make([]unix.Iovec, 0, client.MaxOpPages)}
	var err error
	// One command a tag can be on its way in each direction, and the poll.
	if p.ring, err = uring.New(depth+1, uring.Options{SingleIssuer: true}); err != nil {
		return nil, err
	}
	if p.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("making an eventfd: %w", err), p.close())
	}
	return p, nil
}

func (p *queuePort) attach(f file) error {
	p.dev = f.(*charDev).fd
	size := pageUp(p.depth * ioDescSize)
	at := int64(p.queue) * int64(pageUp(maxDepth*ioDescSize))
	var err error
	if p.descs, err = unix.Mmap(p.dev, at, size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("mapping the descriptors: %w", err)
	}
	return p.listen()
}

// pageUp rounds up to pages of the machine, in which the driver counts.
func pageUp(n int) int {
	page := os.Getpagesize()
	return (n + page - 1) / page * page
}

// listen puts the poll for wake-ups into the ring. It stays there for all of them.
func (p *queuePort) listen() error {
	s := p.ring.Next()
	if s == nil {
		return errRingFull
	}
	s.Opcode, s.FD, s.Len, s.OpFlags, s.UserData = uring.OpPollAdd, int32(p.bell), uring.PollMulti, unix.POLLIN, userBell
	return nil
}

var errRingFull = errors.New("the ring has no place left, though it has one for each tag")

func (p *queuePort) fetch(tag uint16)             { p.command(cmdFetch, tag, 0) }
func (p *queuePort) commit(tag uint16, res int32) { p.command(cmdCommit, tag, res) }

func (p *queuePort) command(op uint32, tag uint16, res int32) {
	s := p.ring.Next()
	if s == nil {
		// A tag was committed twice: what the driver takes for an answer nobody knows
		// any more. The process ends at once, and the requests wait for the next one.
		panic(errRingFull)
	}
	p.fill(s, p.ring.Cmd(s), op, tag, res)
}

// fill makes a command of an entry, with cmd for the driver.
func (p *queuePort) fill(s *uring.SQE, cmd []byte, op uint32, tag uint16, res int32) {
	s.Opcode, s.FD, s.CmdOp, s.UserData = uring.OpURingCmd, int32(p.dev), op, uint64(tag)
	putIOCmd(cmd, p.queue, tag, res)
}

func (p *queuePort) enter(wait bool) error {
	n := 0
	if wait {
		n = 1
	}
	return p.ring.Enter(n)
}

func (p *queuePort) next() (event, bool) {
	c, ok := p.ring.Pop()
	switch {
	case !ok:
		return event{}, false
	case c.UserData == userBell:
		if c.Res < 0 {
			return event{kind: eventFailed, err: fmt.Errorf("waiting for wake-ups: %w", unix.Errno(-c.Res))}, true
		}
		if !c.More() {
			if err := p.listen(); err != nil {
				return event{kind: eventFailed, err: err}, true
			}
		}
		return event{kind: eventWake}, true
	}
	tag := uint16(c.UserData)
	switch {
	case c.Res == 0: // UBLK_IO_RES_OK
		return event{tag: tag, kind: eventRequest}, true
	case c.Res == -int32(unix.ENODEV): // UBLK_IO_RES_ABORT
		return event{tag: tag, kind: eventOver}, true
	case c.Res < 0:
		return event{tag: tag, kind: eventFailed, err: fmt.Errorf("the driver refused a command: %w", unix.Errno(-c.Res))}, true
	}
	return event{tag: tag, kind: eventFailed, err: fmt.Errorf("the driver answered a command with %d", c.Res)}, true
}

func (p *queuePort) desc(tag uint16) ioDesc {
	return parseDesc(p.descs[int(tag)*ioDescSize:][:ioDescSize])
}

func (p *queuePort) load(tag uint16, bufs []*client.Buf, at, n int64) error {
	return p.copy(unix.SYS_PREADV, tag, bufs, at, n)
}

func (p *queuePort) store(tag uint16, bufs []*client.Buf, at, n int64) error {
	return p.copy(unix.SYS_PWRITEV, tag, bufs, at, n)
}

// copy is preadv(2) or pwritev(2) on the character device: the one copy that
// the bytes of a request make. The driver pins the pages, which are in memory,
// and copies: it does not wait for anything, and the runtime need not hear of it.
func (p *queuePort) copy(call uintptr, tag uint16, bufs []*client.Buf, at, n int64) error {
	iov, left := p.iov[:0], n
	for _, b := range bufs {
		m := min(left, pageSize-at)
		if m <= 0 {
			break
		}
		v := unix.Iovec{Base: &b.Page[at]}
		v.SetLen(int(m))
		iov = append(iov, v)
		left -= m
		at = 0
	}
	if left > 0 || len(iov) == 0 {
		return fmt.Errorf("copying %d bytes: %d have no page", n, left)
	}
	got, _, errno := unix.RawSyscall6(call, uintptr(p.dev), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(copyAt(p.queue, tag)), 0, 0)
	switch {
	case errno != 0:
		return fmt.Errorf("copying %d bytes of a request: %w", n, errno)
	case int64(got) != n:
		return fmt.Errorf("copying %d bytes of a request: %d came", n, got)
	}
	return nil
}

// chime is what is written into an eventfd: any number but zero, in any byte order.
var chime = [8]byte{1}

func (p *queuePort) wake() {
	if _, err := unix.Write(p.bell, chime[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		// EAGAIN: so many wake-ups are noted that no more can be. Anything else
		// would be a thread that sleeps for ever.
		panic(fmt.Sprintf("ublk: waking a queue: %v", err))
	}
}

func (p *queuePort) close() error {
	var errs []error
	errs = append(errs, p.ring.Close())
	if p.descs != nil {
		errs = append(errs, unix.Munmap(p.descs))
	}
	if p.bell >= 0 {
		errs = append(errs, unix.Close(p.bell))
	}
	return errors.Join(errs...)
}
