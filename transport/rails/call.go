package rails

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/transport"
)

// upConnsLocked is the rails that are up and their Conns.
func (c *conn) upConnsLocked() (l []*rail, in []transport.Conn) {
	for _, ra := range c.rails {
		if ra.up {
			l, in = append(l, ra), append(in, ra.conn)
		}
	}
	return l, in
}

// call runs f on a rail's Conn, as something that should be answered at once: a
// rail that does not is found by the watch, and f fails.
func (c *conn) call(ra *rail, in transport.Conn, f func() error) error {
	c.mu.Lock()
	if ra.conn != in || !ra.up {
		c.mu.Unlock()
		return transport.ErrClosed
	}
	ra.beginLocked(0)
	ra.calls++
	c.mu.Unlock()
	err := f()
	c.mu.Lock()
	defer c.mu.Unlock()
	if ra.conn == in {
		ra.inFlight--
		ra.calls--
		if !errors.Is(err, transport.ErrClosed) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			ra.heardLocked(time.Now())
		}
	}
	return err
}

// ended is the session's end as calls tell it.
func (c *conn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.mu.cause, transport.ErrStaleEpoch) {
		return transport.ErrFenced
	}
	return transport.ErrClosed
}

// OpenChunk implements transport.Conn: on every rail that is up. Those that come
// later are given what is open then.
func (c *conn) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	if spec.Release {
		c.mu.Lock()
		delete(c.mu.chunks, chunk)
		c.mu.Unlock()
		// One that is sent again by another rail must not come after its chunk
		// was released there.
		for c.uses(chunk) {
			select {
			case <-c.ctx.Done():
				return c.ended()
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	// The first one that lives decides whether there is such a chunk.
	open := func(ra *rail, in transport.Conn, spec transport.ChunkSpec) error {
		return c.call(ra, in, func() error { return in.OpenChunk(ctx, chunk, spec) })
	}
	var first *rail
	for first == nil {
		c.mu.Lock()
		l, in := c.upConnsLocked()
		over := c.mu.cause != nil
		c.mu.Unlock()
		if over || len(l) == 0 {
			return c.ended()
		}
		err := open(l[0], in[0], spec)
		if errors.Is(err, transport.ErrClosed) && ctx.Err() == nil {
			if err := c.gone(ctx, l[0], in[0]); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		first = l[0]
	}
	later := spec
	later.MustExist = !spec.Release
	c.mu.Lock()
	if !spec.Release {
		c.mu.chunks[chunk] = later
	}
	l, in := c.upConnsLocked()
	c.mu.Unlock()
	for i, ra := range l {
		if ra == first {
			continue
		}
		if err := open(ra, in[i], later); err != nil && !errors.Is(err, transport.ErrClosed) {
			return fmt.Errorf("on another rail: %w", err)
		}
	}
	return nil
}

// uses reports whether a request to a chunk is under way.
func (c *conn) uses(chunk uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.mu.flights {
		if f.outer != nil && f.req.Chunk == chunk {
			return true
		}
	}
	return false
}

// gone waits until a rail whose Conn has ended does not count as up any more.
func (c *conn) gone(ctx context.Context, ra *rail, in transport.Conn) error {
	select {
	case <-in.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ra.conn == in {
		ra.up = false
	}
	return nil
}

// Rebuild implements transport.Conn: on the first rail that is up. When that dies
// it waits until the server has ended it, so that nothing of the first attempt is
// stored any more, and asks again by another.
func (c *conn) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (transport.RebuildResult, error) {
	for {
		c.mu.Lock()
		l, in := c.upConnsLocked()
		over := c.mu.cause != nil
		var settled <-chan struct{}
		if len(l) > 0 {
			settled = l[0].settled
		}
		c.mu.Unlock()
		if over || len(l) == 0 {
			return transport.RebuildResult{}, c.ended()
		}
		res, err := in[0].Rebuild(ctx, spec)
		if err == nil || !errors.Is(err, transport.ErrClosed) {
			return res, err
		}
		select {
		case <-settled:
		case <-c.ctx.Done():
			return transport.RebuildResult{}, c.ended()
		case <-ctx.Done():
			return transport.RebuildResult{}, ctx.Err()
		}
	}
}
