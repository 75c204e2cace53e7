package stream

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultStage is a good size for a Reader's stage, in bytes: it takes a
// dozen 4 KiB frames in one call, and the one copy that a payload's start
// costs when it lands there stays below a few microseconds.
const DefaultStage = 64 << 10

// A payload of at least largePayload bytes is worth a system call of its own
// to keep it out of the stage; aheadOfLarge takes the heads of the next frames.
const (
	largePayload = 32 << 10
	aheadOfLarge = 4 << 10
)

// Reader reads a socket through a staging buffer of fixed size. One goroutine
// uses it; closing the connection or its read deadline ends a blocked call.
type Reader struct {
	rc    syscall.RawConn
	stage []byte
	r, w  int // stage[r:w] was read and not consumed
	ahead int // most that is staged at a time: what lands there is copied once more

	v     vec
	try   func(fd uintptr) bool // made once: a closure a call would allocate
	n     int                   // result of try
	errno syscall.Errno         // result of try
	calls uint64
	taken atomic.Uint64 // bytes read from the socket
}

// NewReader returns a Reader of c, which must be a TCP or unix socket, with a
// stage of size bytes. Nothing else may read from c.
func NewReader(c net.Conn, size int) (*Reader, error) {
	rc, err := rawConn(c)
	if err != nil {
		return nil, err
	}
	if size < 16 {
		return nil, fmt.Errorf("stream: stage of %d bytes", size)
	}
	r := &Reader{rc: rc, stage: make([]byte, size), ahead: size}
	r.try = func(fd uintptr) bool {
		r.n, r.errno = r.v.rw(unix.SYS_READV, fd)
		return r.errno != syscall.EAGAIN
	}
	return r, nil
}

// Buffered is the number of bytes that are staged: they can be had without a
// system call. When it is 0 the caller is about to wait, which is the moment
// to flush.
func (r *Reader) Buffered() int { return r.w - r.r }

// Size is the size of the stage in bytes, the most that Peek can show.
func (r *Reader) Size() int { return len(r.stage) }

// Calls is the number of reads made so far, for tests and measurements.
func (r *Reader) Calls() uint64 { return r.calls }

// Arrived is how many bytes have come so far, those that wait in the socket
// included. Any goroutine may ask.
func (r *Reader) Arrived() (uint64, error) {
	taken := r.taken.Load() // first: else what is read meanwhile would count twice
	waiting := 0
	var err error
	if cerr := r.rc.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, os.NewSyscallError("ioctl SIOCINQ", err)
	}
	return taken + uint64(waiting), nil
}

// Consumed is how many of them were consumed. Only the reading goroutine may ask.
func (r *Reader) Consumed() uint64 { return r.taken.Load() - uint64(r.Buffered()) }

// Peek returns the next n bytes without consuming them, reading when they are
// not staged. The view holds until the next call of another method. n must be
// at most Size. At the end of the stream it returns io.EOF when nothing was
// left, io.ErrUnexpectedEOF when fewer than n bytes were.
func (r *Reader) Peek(n int) ([]byte, error) {
	if n > len(r.stage) {
		panic(fmt.Sprintf("stream: peek of %d bytes into a stage of %d", n, len(r.stage)))
	}
	for r.w-r.r < n {
		if r.r == r.w {
			r.r, r.w = 0, 0
		} else if r.r+n > len(r.stage) {
			r.w = copy(r.stage, r.stage[r.r:r.w])
			r.r = 0
		}
		r.v.add(r.stage[r.w:min(len(r.stage), max(r.r+n, r.w+r.ahead))])
		m, err := r.read()
		if err != nil {
			return nil, endOf(err, r.w > r.r)
		}
		r.w += m
	}
	return r.stage[r.r : r.r+n : r.r+n], nil
}

// Next is Peek that consumes. The view holds until the next call of another
// method.
func (r *Reader) Next(n int) ([]byte, error) {
	b, err := r.Peek(n)
	if err == nil {
		r.r += n
	}
	return b, err
}

// Discard consumes n bytes, of any number.
func (r *Reader) Discard(n int) error {
	for n > 0 {
		k := min(n, r.w-r.r)
		r.r += k
		n -= k
		if n > 0 {
			if _, err := r.Peek(1); err != nil {
				return endOf(err, true)
			}
		}
	}
	return nil
}

// ReadInto fills all of bufs: from the stage, then straight from the socket.
// The memory belongs to the Reader until it returns; after an error its
// contents are undefined. It does not keep or change bufs. The end of the
// stream before all is filled is io.ErrUnexpectedEOF.
//
// After a large payload the next frame is likely to have one too: then little
// is read ahead, so that it goes to its place without the stage's copy.
func (r *Reader) ReadInto(bufs [][]byte) error {
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	r.ahead = len(r.stage)
	if total >= largePayload {
		r.ahead = min(r.ahead, aheadOfLarge)
	}
	i, off := 0, 0 // next byte to fill is bufs[i][off]
	for i < len(bufs) {
		if off == len(bufs[i]) {
			i, off = i+1, 0
			continue
		}
		if r.r < r.w {
			m := copy(bufs[i][off:], r.stage[r.r:r.w])
			r.r += m
			off += m
			continue
		}
		// The stage is empty: the vector is what is missing, then the stage.
		r.r, r.w = 0, 0
		want := 0
		for j, o := i, off; j < len(bufs) && r.v.n < maxVec-1; j, o = j+1, 0 {
			r.v.add(bufs[j][o:])
			want += len(bufs[j]) - o
		}
		r.v.add(r.stage[:r.ahead])
		m, err := r.read()
		if err != nil {
			return endOf(err, true)
		}
		if m > want {
			r.w = m - want
			m = want
		}
		for m > 0 {
			k := min(m, len(bufs[i])-off)
			off += k
			m -= k
			if off == len(bufs[i]) {
				i, off = i+1, 0
			}
		}
	}
	return nil
}

// ReadFull fills b, as ReadInto does. It makes no difference to allocation.
func (r *Reader) ReadFull(b []byte) error {
	for len(b) > 0 {
		if r.r < r.w {
			m := copy(b, r.stage[r.r:r.w])
			r.r += m
			b = b[m:]
			continue
		}
		r.r, r.w = 0, 0
		r.v.add(b)
		r.v.add(r.stage[:r.ahead])
		m, err := r.read()
		if err != nil {
			return endOf(err, true)
		}
		if m > len(b) {
			r.w = m - len(b)
			m = len(b)
		}
		b = b[m:]
	}
	return nil
}

// read fills the vector once, waiting until there is something.
func (r *Reader) read() (int, error) {
	err := r.rc.Read(r.try)
	r.v.reset()
	r.calls++
	switch {
	case err != nil:
		return 0, err
	case r.errno != 0:
		return 0, os.NewSyscallError("readv", r.errno)
	case r.n == 0:
		return 0, io.EOF
	}
	r.taken.Add(uint64(r.n))
	return r.n, nil
}

// endOf turns the end of the stream inside of something into an error.
func endOf(err error, inside bool) error {
	if err == io.EOF && inside {
		return io.ErrUnexpectedEOF
	}
	return err
}
