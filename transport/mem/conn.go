package mem

import (
	"errors"
	"sync"
	"time"

	"dmps/transport"
)

// conn is both ends of a session. Its goroutine serves the requests.
type conn struct {
	h    *Host
	d    *Dialer
	s    transport.Session
	idle func()
	win  int

	wake    chan struct{} // one token: look again
	stopped chan struct{} // closed with cause
	done    chan struct{}

	mu     sync.Mutex
	cause  error
	queue  []*transport.Request // submitted, not kicked
	ready  []*transport.Request // kicked, not served
	held   []*transport.Request // served, the reply was dropped
	calls  []*call
	flight int

	io       transport.SlotIO
	scratch  []byte
	rebuilds sync.WaitGroup
	places   chan struct{} // for rebuilds
}

func newConn(h *Host, d *Dialer, idle func()) *conn {
	return &conn{
		h: h, d: d, idle: idle,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), done: make(chan struct{}),
		scratch: make([]byte, transport.MaxSegs*transport.MaxHeaderBytes),
		places:  make(chan struct{}, transport.RebuildsInFlight),
	}
}

func (c *conn) start(s transport.Session, w transport.Welcome) { c.s, c.win = s, w.Window }

func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// end ends the session: Backend's stop, Abort, and the host's faults.
func (c *conn) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	if errors.Is(cause, transport.ErrStaleEpoch) {
		cause = transport.ErrFenced
	}
	c.cause = transport.Ended(cause)
	close(c.stopped)
}

// Submit implements transport.Conn.
func (c *conn) Submit(r *transport.Request) error {
	c.d.regions.Check(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return transport.ErrClosed
	}
	if c.flight == c.win {
		return transport.ErrWindowFull
	}
	c.flight++
	r.Err = nil
	c.queue = append(c.queue, r)
	return nil
}

// Kick implements transport.Conn.
func (c *conn) Kick() {
	c.mu.Lock()
	c.ready = append(c.ready, c.queue...)
	c.queue = c.queue[:0]
	c.mu.Unlock()
	c.poke()
}

// Window implements transport.Conn.
func (c *conn) Window() int { return c.win }

// Done implements transport.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

// Err implements transport.Conn.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Abort implements transport.Conn.
func (c *conn) Abort(cause error) { c.end(cause) }

// Close implements transport.Conn.
func (c *conn) Close() error {
	c.end(transport.ErrClosed)
	<-c.done
	return nil
}

// deadline is the earliest deadline of what is in flight.
func (c *conn) deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var t time.Time
	for _, l := range [][]*transport.Request{c.queue, c.ready, c.held} {
		for _, r := range l {
			if !r.Deadline.IsZero() && (t.IsZero() || r.Deadline.Before(t)) {
				t = r.Deadline
			}
		}
	}
	return t
}
