package rails

import (
	"context"
	"errors"
	"sync"
	"time"

	"dmps/transport"
)

// conn is a session of several rails.
type conn struct {
	d        *Dialer
	hello    transport.Hello
	idle     func()
	server   string // its name
	rails    []*rail
	complete func(*transport.Request) // c.completed, made once
	ctx      context.Context          // ends with the session
	cancel   context.CancelFunc
	wg       sync.WaitGroup // a rail's goroutine each, the watch, pings
	wake     chan struct{}  // one token: the watch is to look again
	done     chan struct{}

	// mu guards all of this, and what the rails say it does. The Conns of rails
	// may be called under it: they call nobody back from inside.
	mu struct {
		sync.Mutex
		cause   error // why the session ends; set once
		flights []*flight
		free    *flight
		waiting list // given up by a rail that died, and without credit so far
		alarm   transport.Alarm
		resting bool  // the watch rests
		last    *rail // that a request was given to

		chunks map[uint64]transport.ChunkSpec // open, as rails that come later are to open them
	}
}

// flight is a request on a rail. Its own request is what the rail's Conn has, so
// that the caller's stays as it is, Done above all.
type flight struct {
	req   transport.Request
	outer *transport.Request // the caller's; nil: the flight is free
	rail  *rail
	bytes int64
	next  *flight // in a list
}

// list is a queue of flights.
type list struct{ head, tail *flight }

func (l *list) push(f *flight) {
	f.next = nil
	if l.tail == nil {
		l.head = f
	} else {
		l.tail.next = f
	}
	l.tail = f
}

func (l *list) pop() *flight {
	f := l.head
	if l.head = f.next; l.head == nil {
		l.tail = nil
	}
	f.next = nil
	return f
}

func newConn(d *Dialer, addrs []string, h transport.Hello, idle func()) *conn {
	c := &conn{d: d, hello: h, wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.idle = func() {
		if idle != nil {
			idle()
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.complete = c.completed
	c.mu.chunks = make(map[uint64]transport.ChunkSpec)
	for i, a := range addrs {
		c.rails = append(c.rails, &rail{c: c, index: i, addr: a, attempts: 1, suspected: make(chan struct{}, 1)})
	}
	return c
}

// owner reports whether the session writes. The rails of a reader are sessions of
// their own to the server.
func (c *conn) owner() bool { return c.hello.Mode == transport.ModeOwner }

func (c *conn) begin(first int, in transport.Conn, w transport.Welcome) {
	c.server = w.Server
	c.hello.Incarnation = w.Incarnation // the other addresses must lead to the same server
	c.mu.Lock()
	c.mu.alarm.Init(c.expire)
	c.rails[first].upLocked(in)
	c.mu.Unlock()
	for i, ra := range c.rails {
		had := in
		if i != first {
			had = nil
		}
		c.wg.Go(func() { ra.run(had) })
	}
	c.wg.Go(c.watch)
	go c.finish()
}

// overhead counts a request beside its bytes: the time of one of no page.
const overhead = 1024

func size(r *transport.Request) int64 {
	n := overhead
	for i := range r.Segs {
		n += len(r.Segs[i].Header) + len(r.Segs[i].Page)
	}
	return int64(n)
}

// Submit implements transport.Conn.
func (c *conn) Submit(r *transport.Request) error {
	if r.Done == nil {
		panic("transport: request without Done")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.cause != nil {
		return transport.ErrClosed
	}
	f := c.mu.free
	if f == nil || c.mu.waiting.head != nil { // those have waited for longer
		return transport.ErrWindowFull
	}
	f.req.Op, f.req.Chunk, f.req.Segs, f.req.Count, f.req.Done = r.Op, r.Chunk, r.Segs, r.Count, c.complete
	f.bytes = size(r)
	err := c.sendLocked(f)
	if err == transport.ErrWindowFull {
		f.req.Segs = nil
		return err
	}
	r.Err = nil
	f.outer, c.mu.free = r, f.next
	f.next = nil
	if err != nil { // it waits for a rail, or for the session's end
		c.mu.waiting.push(f)
	}
	c.mu.alarm.Set(r.Deadline)
	return nil
}

// errNoRail: none is up. One is about to be, or the session is about to end.
var errNoRail = errors.New("rails: no rail is up")

// spread is how many bytes more than the least a rail may have in flight and be
// given the next request all the same, if it had the last one: what goes by one
// rail in a row goes out and comes back with fewer system calls. Without that, 32
// requests of 4 KiB at a time took twice as long over two rails as over one.
const spread = 128 << 10

// sendLocked submits f to the rail with the fewest bytes in flight that has
// credit, or to the last one. Errors: ErrWindowFull, errNoRail.
func (c *conn) sendLocked(f *flight) error {
	var full uint32
	err := errNoRail
	for {
		var least *rail
		for i, ra := range c.rails {
			if ra.up && full>>i&1 == 0 && (least == nil || ra.bytes < least.bytes) {
				least = ra
			}
		}
		if least == nil {
			return err
		}
		if o := c.mu.last; o != nil && o.up && full>>o.index&1 == 0 && o.bytes < least.bytes+spread {
			least = o
		}
		c.mu.last = least
		if e := least.conn.Submit(&f.req); e != nil {
			if e == transport.ErrWindowFull {
				err = e // something is in flight, whose end makes room
			}
			full |= 1 << least.index
			continue
		}
		f.rail = least
		least.beginLocked(f.bytes)
		return nil
	}
}

// completed is the Done of flights.
func (c *conn) completed(q *transport.Request) {
	f := q.User.(*flight)
	over := errors.Is(q.Err, transport.ErrClosed)
	c.mu.Lock()
	ra := f.rail
	ra.bytes -= f.bytes
	ra.inFlight--
	if !over {
		ra.heardLocked(time.Now())
	} else if c.mu.cause == nil {
		ra.up = false // its Conn accepts nothing any more
		if q.Op == transport.OpWrite {
			ra.held.push(f)
			c.mu.Unlock()
			return
		}
		c.mu.waiting.push(f)
		c.resubmitLocked()
		c.mu.Unlock()
		c.Kick()
		return
	}
	r, err := c.freeLocked(f), q.Err
	if over {
		err = transport.Outcome(r, c.mu.cause, time.Now())
	}
	again := c.mu.waiting.head != nil && c.resubmitLocked()
	c.mu.Unlock()
	if again {
		c.Kick()
	}
	r.Err = err
	r.Done(r)
}

// freeLocked takes a flight's request off it.
func (c *conn) freeLocked(f *flight) *transport.Request {
	r := f.outer
	f.outer, f.rail, f.req.Segs = nil, nil, nil
	f.next, c.mu.free = c.mu.free, f
	return r
}

// resubmitLocked sends what waits, as far as there is credit. It reports whether
// there is something to kick.
func (c *conn) resubmitLocked() (some bool) {
	for c.mu.waiting.head != nil && c.sendLocked(c.mu.waiting.head) == nil {
		// A flight that completes meanwhile waits for mu.
		c.mu.waiting.pop()
		some = true
	}
	return some
}

// Kick implements transport.Conn.
func (c *conn) Kick() {
	for _, ra := range c.rails {
		if !ra.dirty.Load() || !ra.dirty.Swap(false) {
			continue
		}
		c.mu.Lock()
		in := ra.conn
		c.mu.Unlock()
		if in != nil {
			in.Kick()
		}
	}
}

// Window implements transport.Conn: the sum of the rails that are up.
func (c *conn) Window() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, ra := range c.rails {
		if ra.up {
			n += ra.conn.Window()
		}
	}
	return n
}

// Rails implements transport.Railed.
func (c *conn) Rails() (up, all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ra := range c.rails {
		if ra.up {
			up++
		}
	}
	return up, len(c.rails)
}

// Carrier implements transport.Carrier: that of the first rail that is up.
func (c *conn) Carrier() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ra := range c.rails {
		if k, ok := ra.conn.(transport.Carrier); ok && ra.up {
			return k.Carrier()
		}
	}
	return "none"
}

// Done implements transport.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

// Err implements transport.Conn.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.cause
}

// Abort implements transport.Conn.
func (c *conn) Abort(cause error) {
	c.mu.Lock()
	if c.mu.cause != nil {
		c.mu.Unlock()
		return
	}
	c.mu.cause = transport.Ended(cause)
	c.mu.alarm.Stop()
	var in []transport.Conn
	for _, ra := range c.rails {
		if ra.conn != nil {
			in = append(in, ra.conn)
		}
	}
	c.mu.Unlock()
	for _, o := range in {
		o.Abort(cause)
	}
	c.cancel()
}

// Close implements transport.Conn.
func (c *conn) Close() error {
	c.Abort(transport.ErrClosed)
	<-c.done
	return nil
}

// finish waits for the rails' end and completes what none of them has.
func (c *conn) finish() {
	c.wg.Wait() // the Conns of all rails are done, and a cause is set
	c.mu.Lock()
	cause := c.mu.cause
	c.mu.Unlock()
	now := time.Now()
	for _, f := range c.mu.flights { // nobody else is left that touches them
		if f.outer == nil {
			continue
		}
		r := f.outer
		f.outer = nil
		r.Err = transport.Outcome(r, cause, now)
		r.Done(r)
	}
	c.idle()
	c.d.sessions.Remove(c)
	close(c.done)
}

// expire is the alarm's.
func (c *conn) expire() {
	c.mu.Lock()
	late := c.mu.cause == nil && c.mu.alarm.Rang(func(yield func(*transport.Request) bool) {
		for _, f := range c.mu.flights {
			if f.outer != nil && !yield(f.outer) {
				return
			}
		}
	})
	c.mu.Unlock()
	if late {
		c.Abort(transport.ErrDeadline)
	}
}
