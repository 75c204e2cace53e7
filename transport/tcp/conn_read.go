package tcp

import (
	"fmt"
	"math/bits"
	"time"

	"dmps/transport"
)

// read is the conn's goroutine: it completes requests until the session ends.
func (c *conn) read() {
	var err error
	for err == nil {
		err = c.one()
	}
	c.finish(err)
}

// need calls idle before the goroutine waits for n bytes.
func (c *conn) need(n int) {
	if c.fresh && c.r.Buffered() < n {
		c.fresh = false
		if c.idle != nil {
			c.idle()
		}
	}
}

// one reads one reply and completes its request.
func (c *conn) one() error {
	c.need(replyHead)
	b, err := c.r.Next(replyHead)
	if err != nil {
		return err
	}
	p, err := parseReply(b)
	if err != nil {
		return err
	}
	if p.typ == typeGoaway {
		return c.goaway(p)
	}
	s, i, err := c.slot(p.id)
	if err != nil {
		return err
	}
	if s.req != nil {
		err = c.payload(&s, p)
	} else {
		err = c.answer(s.call, p)
	}
	if err != nil {
		return err
	}
	// The answer may be here before the flush that sent the question has
	// booked it; a server that answers before it has the question is mad.
	if c.w.Taken() < s.end {
		c.w.Flush()
		if err := c.w.WaitTaken(s.end); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.mu.slots[i].req, c.mu.slots[i].call = nil, nil
	if s.req != nil {
		c.mu.free = append(c.mu.free, i)
	} else {
		c.mu.calls[s.call.kind] = append(c.mu.calls[s.call.kind], i)
	}
	c.mu.Unlock()
	if s.call != nil {
		s.call.err = p.status.Err()
		close(s.call.done)
		<-c.places[s.call.kind]
		return nil
	}
	s.req.Err = p.status.Err()
	c.fresh = true
	s.req.Done(s.req)
	return nil
}

// slot returns a copy of the slot that a reply names.
func (c *conn) slot(id uint32) (slot, uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := id & 0xffff
	if int(i) >= len(c.mu.slots) {
		return slot{}, 0, fmt.Errorf("%w: reply to request %#x", errFrame, id)
	}
	s := c.mu.slots[i]
	if uint32(s.gen) != id>>16 || s.req == nil && s.call == nil {
		return slot{}, 0, fmt.Errorf("%w: reply to request %#x, which is not in flight", errFrame, id)
	}
	return s, uint16(i), nil
}

// payload receives what follows a reply's head into the request's memory.
func (c *conn) payload(s *slot, p reply) error {
	r := s.req
	want := 0
	if p.status == transport.StatusOK {
		switch r.Op {
		case transport.OpRead:
			want = len(r.Segs)*int(s.hdr) + bits.OnesCount32(s.mask)*transport.PageSize
		case transport.OpReadHeaders:
			want = len(r.Segs[0].Header)
		}
	}
	if int(p.length) != want {
		return fmt.Errorf("%w: reply of %d bytes where %d belong", errFrame, p.length, want)
	}
	if want == 0 {
		return nil
	}
	c.need(want)
	for i := range r.Segs {
		if err := c.r.ReadFull(r.Segs[i].Header); err != nil {
			return unexpected(err)
		}
	}
	if s.mask == 0 {
		return nil
	}
	bufs := c.bufs[:0]
	for i := range r.Segs {
		if r.Segs[i].Page != nil {
			bufs = append(bufs, r.Segs[i].Page)
		}
	}
	err := c.r.ReadInto(bufs)
	clear(bufs)
	return unexpected(err)
}

// goaway is the server's end of the session.
func (c *conn) goaway(p reply) error {
	b, err := c.r.Next(int(p.length))
	if err != nil {
		return unexpected(err)
	}
	if p.status == transport.StatusStaleEpoch {
		return transport.ErrFenced
	}
	return fmt.Errorf("%w by the server: %s (%w)", transport.ErrClosed, b, p.status.Err())
}

// finish ends the session and completes what is in flight.
func (c *conn) finish(err error) {
	c.mu.Lock()
	if c.mu.cause == nil {
		c.mu.cause = transport.Ended(err)
	}
	cause := c.mu.cause
	c.mu.alarm.Stop()
	c.mu.Unlock()
	// After these two nothing touches the requests' memory: the writer holds
	// no reference, and this goroutine is the one that reads.
	c.w.Fail(cause)
	_ = c.nc.Close()
	now := time.Now()
	for i := range c.mu.slots { // cause is set: nobody else touches the slots
		s := &c.mu.slots[i]
		switch {
		case s.call != nil:
			s.call.err = transport.Outcome(nil, cause, now)
			close(s.call.done)
		case s.req != nil:
			r := s.req
			s.req = nil
			r.Err = transport.Outcome(r, cause, now)
			r.Done(r)
		}
	}
	if c.idle != nil {
		c.idle()
	}
	if c.gone != nil {
		c.gone(c)
	}
	close(c.done)
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
