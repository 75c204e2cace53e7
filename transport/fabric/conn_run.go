//go:build fabric && cgo

package fabric

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"dmps/transport"
)

// run is the session's goroutine: it completes one-sided requests until the
// session ends.
func (c *conn) run() {
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		<-c.link.Done()
		c.Abort(c.link.Err()) // one cannot be without the other
	}()
	var err error
	for err == nil && c.Err() == nil {
		err = c.turn()
	}
	if err != nil {
		c.failed(err)
	}
	c.finish()
	<-watched
	close(c.done)
}

// turn waits for ends of operations and completes what they complete.
func (c *conn) turn() error {
	c.mu.Lock()
	err := c.postLocked()
	posted, waiting := c.mu.posted, c.mu.ring.waiting()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	wait := forever
	if waiting > 0 {
		wait = time.Millisecond // the provider did not take all of them
	}
	n, err := c.ep.poll(c.spin, wait, posted == 0 && waiting == 0)
	if err != nil {
		return err
	}
	if n > 0 {
		return c.ends(n)
	}
	return nil
}

// ends takes the ends of n operations.
func (c *conn) ends(n int) error {
	c.ended = c.ended[:0]
	c.mu.Lock()
	c.mu.posted -= n
	for i := range n {
		ctx, err := c.ep.end(i)
		if err == nil && (ctx >= uint64(len(c.mu.slots)) || c.mu.slots[ctx].pending == 0) {
			err = fmt.Errorf("end of an operation %#x that was not posted", ctx)
		}
		if err != nil {
			c.mu.Unlock()
			return err // what has ended is completed with the rest
		}
		s := &c.mu.slots[ctx]
		if s.pending--; s.pending > 0 {
			continue
		}
		if c.nextLocked(s) {
			continue
		}
		c.ended = append(c.ended, s.i)
	}
	err := c.postLocked()
	c.mu.Unlock()
	for _, i := range c.ended {
		s := &c.mu.slots[i] // nobody else has it until it is free
		c.deliver(s)
		c.mu.Lock()
		r, m := c.freeLocked(s)
		c.mu.Unlock()
		r.Err = nil
		c.call(r)
		c.landed(m)
	}
	if len(c.ended) > 0 {
		c.linkIdle()
		runtime.Gosched() // whoever was told goes first: what it asks for next is posted sooner
	}
	return err
}

// call tells the caller that a request is over.
func (c *conn) call(r *transport.Request) {
	c.calls.Lock()
	defer c.calls.Unlock()
	r.Done(r)
}

// linkIdle calls the caller's idle, for the link and for this session.
func (c *conn) linkIdle() {
	if c.idle == nil {
		return
	}
	c.calls.Lock()
	defer c.calls.Unlock()
	c.idle()
}

// linkDone is the end of a request that went over the link.
func (c *conn) linkDone(s *slot) {
	err := s.lent.Err
	c.mu.Lock()
	cause := c.mu.cause
	r, _ := c.freeLocked(s) // a request of the link's has no chunk here
	c.mu.Unlock()
	if errors.Is(err, transport.ErrClosed) && cause != nil {
		err = transport.Outcome(r, cause, time.Now())
	}
	r.Err = err
	c.call(r)
}

// linger is how long a session whose endpoint failed waits for the link to say
// why: a fence ends both.
const linger = 500 * time.Millisecond

// failed is the end of the session by the endpoint.
func (c *conn) failed(err error) {
	select {
	case <-c.link.Done():
		err = c.link.Err()
	case <-time.After(linger):
	}
	c.Abort(err)
}

// finish ends the endpoint and completes what is in flight. The link completes
// what it has.
func (c *conn) finish() {
	c.mu.Lock()
	cause := c.mu.cause
	c.mu.alarm.Stop()
	c.release() // under the lock: nobody is posting
	now := time.Now()
	var over []*transport.Request
	for i := range c.mu.slots {
		if s := &c.mu.slots[i]; s.req != nil && s.rem != nil {
			r, _ := c.freeLocked(s) // who waits for a release hears of the session's end
			over = append(over, r)
		}
	}
	c.mu.Unlock()
	for _, r := range over {
		r.Err = transport.Outcome(r, cause, now)
		c.call(r)
	}
	<-c.link.Done()
	c.mapping.Wait() // nobody starts one any more
	c.linkIdle()
	c.d.sessions.Remove(c)
}

// expire is the alarm's.
func (c *conn) expire() {
	c.mu.Lock()
	late := c.mu.cause == nil && c.mu.alarm.Rang(c.inFlightLocked)
	c.mu.Unlock()
	if late {
		c.Abort(transport.ErrDeadline)
	}
}

func (c *conn) inFlightLocked(yield func(*transport.Request) bool) {
	for i := range c.mu.slots {
		if r := c.mu.slots[i].req; r != nil && !yield(r) {
			return
		}
	}
}
