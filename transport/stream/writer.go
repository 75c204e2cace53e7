package stream

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrWriterClosed is what Begin returns after Close: the frame was not taken.
var ErrWriterClosed = errors.New("stream: writer closed")

// Releaser is told once when the Writer holds no reference to a frame any
// more: the kernel has taken its bytes, or the Writer has failed or was
// closed. Released is called on whichever goroutine found out, under no lock.
// It must not block; it may append to the same Writer, also Flush it.
type Releaser interface{ Released() }

// Writer sends frames that any goroutine appends:
//
//	if err := w.Begin(); err != nil { ... }
//	encode(w.Bytes(headSize))
//	w.Ref(page)
//	w.End(releaser)
//	...
//	w.Flush()
//
// Appending and flushing never block on the socket. How much may be queued is
// for the protocol's credit to bound: see Queued.
type Writer struct {
	c  net.Conn
	rc syscall.RawConn

	taken atomic.Uint64 // bytes that the kernel took since the beginning

	mu       sync.Mutex
	idle     sync.Cond // flushing became false, or taken grew while waiters > 0
	waiters  int
	q        queue
	end      uint64 // bytes appended since the beginning. end-taken are queued
	flushing bool   // one goroutine at a time: it owns v, n, errno and the socket
	err      error  // set once; the queue is empty or being emptied then
	closed   bool   // Fail was called: stuck is closed
	calls    uint64

	// Owned by who set flushing.
	v        vec
	released []Releaser
	n        int
	errno    syscall.Errno
	try      func(fd uintptr) bool // one attempt
	wait     func(fd uintptr) bool // waits until the socket took something

	stuck chan struct{} // the socket is full: hands flushing to the goroutine
	done  chan struct{} // closed when the goroutine has ended
}

// NewWriter returns a Writer to c, which must be a TCP or unix socket. Nothing
// else may write to c. It starts a goroutine: call Close.
func NewWriter(c net.Conn) (*Writer, error) {
	rc, err := rawConn(c)
	if err != nil {
		return nil, err
	}
	w := &Writer{c: c, rc: rc, stuck: make(chan struct{}, 1), done: make(chan struct{})}
	w.idle.L = &w.mu
	w.try = func(fd uintptr) bool {
		w.n, w.errno = w.v.rw(unix.SYS_WRITEV, fd)
		return true
	}
	w.wait = func(fd uintptr) bool {
		w.n, w.errno = w.v.rw(unix.SYS_WRITEV, fd)
		return w.errno != syscall.EAGAIN
	}
	go w.waiter(w.stuck)
	return w, nil
}

// Begin starts a frame and locks the Writer until End. When the Writer has
// failed or was closed it returns why and locks nothing.
func (w *Writer) Begin() error {
	w.mu.Lock()
	if w.err != nil {
		err := w.err
		w.mu.Unlock()
		return err
	}
	return nil
}

// Bytes appends n bytes, at most MaxBytes, to the frame and returns them for
// the caller to fill before End. They are not zeroed.
func (w *Writer) Bytes(n int) []byte {
	w.end += uint64(n)
	return w.q.bytes(n)
}

// Ref appends b by reference: it must not change until it is released.
func (w *Writer) Ref(b []byte) {
	w.end += uint64(len(b))
	w.q.ref(b)
}

// End finishes the frame and unlocks. rel, when not nil, is told when the
// Writer is done with the frame's memory. The result is the position of the
// frame's end in the stream, for Taken and WaitTaken.
func (w *Writer) End(rel Releaser) uint64 {
	end := w.end
	if rel != nil {
		w.q.release(end, rel)
	}
	w.mu.Unlock()
	return end
}

// Taken is the number of bytes that the kernel has taken so far: a frame whose
// End gave at most that is not referenced any more.
func (w *Writer) Taken() uint64 { return w.taken.Load() }

// Queued is the number of bytes that were appended and not taken.
func (w *Writer) Queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int(w.end - w.taken.Load())
}

// Calls is the number of writev calls so far, for tests and measurements.
func (w *Writer) Calls() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// WaitTaken blocks until the kernel has taken the stream up to pos, or the
// Writer has failed or was closed and references nothing any more; it returns
// why then. It is for the rare case that an answer overtakes the bookkeeping
// of its own request.
func (w *Writer) WaitTaken(pos uint64) error {
	if w.taken.Load() >= pos {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiters++
	defer func() { w.waiters-- }()
	for w.taken.Load() < pos && (w.err == nil || w.flushing) {
		w.idle.Wait()
	}
	if w.taken.Load() >= pos {
		return nil
	}
	return w.err
}

// Flush sends what was appended, in this goroutine, as far as the socket takes
// it without blocking; the rest follows by itself. When another goroutine is
// flushing, that one sends this one's frames too and Flush returns at once.
// An error shows at the next Begin, and in Err.
func (w *Writer) Flush() {
	w.mu.Lock()
	if w.flushing || w.q.empty() || w.err != nil {
		w.mu.Unlock()
		return
	}
	w.flushing = true
	for w.gather() {
		w.mu.Unlock()
		err := w.rc.Write(w.try)
		w.mu.Lock()
		if err == nil && w.errno == syscall.EAGAIN {
			w.v.reset()
			w.calls++
			w.mu.Unlock()
			w.stuck <- struct{}{} // never blocks: one flusher, one place
			return
		}
		w.advance(err)
	}
	w.mu.Unlock()
}

// waiter is the goroutine that goes on for a Flush whose socket was full.
func (w *Writer) waiter(stuck <-chan struct{}) {
	defer close(w.done)
	for range stuck {
		w.mu.Lock()
		for w.gather() {
			w.mu.Unlock()
			err := w.rc.Write(w.wait)
			w.mu.Lock()
			w.advance(err)
		}
		w.mu.Unlock()
	}
}

// gather fills the vector from the queue. With nothing to send, or a failed
// Writer, it ends the flush and reports false. Locked.
func (w *Writer) gather() bool {
	if w.err != nil {
		w.drop()
	}
	if !w.q.empty() {
		w.q.fill(&w.v)
		return true
	}
	w.flushing = false
	w.idle.Broadcast()
	return false
}

// advance books the result of one call and tells the Releasers. Locked; it
// unlocks to call them.
func (w *Writer) advance(err error) {
	w.v.reset()
	w.calls++
	if err == nil && w.errno != 0 {
		err = os.NewSyscallError("writev", w.errno)
	}
	if err != nil {
		if w.err == nil {
			w.err = err
		}
		return // gather drops the rest
	}
	w.q.consume(w.n)
	w.taken.Add(uint64(w.n))
	if w.waiters > 0 {
		w.idle.Broadcast()
	}
	w.released = w.q.popReleased(w.taken.Load(), w.released[:0])
	w.callReleased()
}

// drop empties the queue of a failed Writer. Locked by the flusher; it unlocks
// to call the Releasers.
func (w *Writer) drop() {
	w.q.drop()
	w.released = w.q.popReleased(^uint64(0), w.released[:0])
	w.callReleased()
}

func (w *Writer) callReleased() {
	if len(w.released) == 0 {
		return
	}
	w.mu.Unlock()
	for i, r := range w.released {
		w.released[i] = nil
		r.Released()
	}
	w.mu.Lock()
}

// Err is why the Writer takes no more frames, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the Writer: what is queued is not sent, every Releaser is told,
// and when it returns nothing references any memory. It expires the
// connection's write deadline but does not close the connection. It must not
// be called from Released. It may be called again.
func (w *Writer) Close() { w.Fail(ErrWriterClosed) }

// Fail is Close with another reason for Begin to return.
func (w *Writer) Fail(reason error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = reason
	}
	// A goroutine that waits for the socket must come back.
	if w.flushing {
		_ = w.c.SetWriteDeadline(time.Unix(1, 0)) // fails only when c is closed, which wakes it as well
	}
	for w.flushing {
		w.idle.Wait()
	}
	w.flushing = true
	w.drop()
	w.flushing = false
	w.idle.Broadcast()
	if !w.closed {
		w.closed = true
		close(w.stuck)
	}
	w.mu.Unlock()
	<-w.done
}
