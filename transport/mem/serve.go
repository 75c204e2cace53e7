package mem

import (
	"errors"
	"time"

	"dmps/transport"
)

// run serves the session until it ends.
func (c *conn) run() {
	for c.wait() {
		c.batch()
	}
	c.s.Close()
	c.rebuilds.Wait()
	c.finish()
}

// wait returns true when there may be something to serve, and false at the end.
func (c *conn) wait() bool {
	pending := false             // a wake that a stall or a delay holds back
	var delayed <-chan time.Time // set while a batch is delayed
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-c.stopped: // before anything else
			return false
		default:
		}
		f := c.h.faults()
		if pending && !f.stalled && delayed == nil {
			if f.delay == 0 {
				return true
			}
			t := time.NewTimer(f.delay)
			defer t.Stop()
			delayed = t.C
		}
		var expired <-chan time.Time
		if t := c.deadline(); !t.IsZero() {
			timer.Reset(time.Until(t))
			expired = timer.C
		}
		select {
		case <-c.stopped:
			return false
		case <-expired:
			c.end(transport.ErrDeadline)
		case <-c.wake:
			pending = true
		case <-delayed:
			if f.stalled {
				delayed = nil // again, after the stall
				continue
			}
			return true
		case <-f.changed:
		}
	}
}

// batch serves what was kicked and calls idle.
func (c *conn) batch() {
	c.mu.Lock()
	calls, ready := c.calls, c.ready
	c.calls, c.ready = nil, nil
	c.mu.Unlock()
	for _, o := range calls {
		o.start(o)
	}
	any := false
	for i, r := range ready {
		select {
		case <-c.stopped:
			c.mu.Lock()
			c.ready = append(ready[i:], c.ready...)
			c.mu.Unlock()
			return
		default:
		}
		err := transport.StatusOf(c.serve(r)).Err()
		if c.h.dropOne() {
			c.mu.Lock()
			c.held = append(c.held, r)
			c.mu.Unlock()
			continue
		}
		c.mu.Lock()
		c.flight--
		c.mu.Unlock()
		r.Err = err
		r.Done(r)
		any = true
	}
	if any && c.idle != nil {
		c.idle()
	}
}

// serve moves one request's bytes.
func (c *conn) serve(r *transport.Request) error {
	io := &c.io
	hdr, mask := c.d.regions.Check(r)
	io.Chunk, io.HeaderBytes, io.PageMask = r.Chunk, hdr, mask
	io.Segs, io.Mem = len(r.Segs), io.Mem[:0]
	if r.Op == transport.OpReadHeaders {
		io.Runs = append(io.Runs[:0], transport.Run{Start: r.Segs[0].Index, Count: uint32(r.Count)})
		if err := c.s.BeginReadHeaders(io); err != nil {
			return err
		}
		defer c.s.EndRead(io)
		for b := r.Segs[0].Header; len(io.Mem) > 0; io.Mem = io.Mem[1:] {
			b = b[copy(b, io.Mem[0]):]
		}
		return nil
	}
	io.Runs = transport.AppendRuns(io.Runs[:0], r.Segs)
	io.Headers = c.scratch[:len(r.Segs)*hdr]
	if r.Op == transport.OpWrite {
		for i := range r.Segs {
			copy(io.Headers[i*hdr:], r.Segs[i].Header)
		}
		if err := c.s.BeginWrite(io); err != nil {
			return err
		}
		eachPage(r, io.Mem, func(page, mem []byte) { copy(mem, page) })
		return c.s.CommitWrite(io)
	}
	if err := c.s.BeginRead(io); err != nil {
		return err
	}
	defer c.s.EndRead(io)
	for i := range r.Segs {
		copy(r.Segs[i].Header, io.Headers[i*hdr:])
	}
	eachPage(r, io.Mem, func(page, mem []byte) { copy(page, mem) })
	return nil
}

func eachPage(r *transport.Request, mem [][]byte, f func(page, mem []byte)) {
	off := 0
	for i := range r.Segs {
		if r.Segs[i].Page == nil {
			continue
		}
		for off == len(mem[0]) {
			mem, off = mem[1:], 0
		}
		f(r.Segs[i].Page, mem[0][off:off+transport.PageSize])
		off += transport.PageSize
	}
}

// finish completes what is in flight.
func (c *conn) finish() {
	c.mu.Lock()
	all := append(append(c.held, c.ready...), c.queue...)
	c.held, c.ready, c.queue = nil, nil, nil
	cause := c.cause
	c.mu.Unlock()
	now := time.Now()
	for _, r := range all {
		r.Err = transport.ErrClosed
		switch {
		case errors.Is(cause, transport.ErrDeadline):
			if !r.Deadline.IsZero() && !r.Deadline.After(now) {
				r.Err = transport.ErrDeadline
			}
		case errors.Is(cause, transport.ErrStaleEpoch):
			r.Err = transport.ErrFenced
		}
		r.Done(r)
	}
	if c.idle != nil {
		c.idle()
	}
	c.forget()
	close(c.done)
}
