package mem

import (
	"context"
	"errors"
	"slices"

	"dmps/transport"
)

// call is an OpenChunk or a Rebuild that waits for the session's goroutine.
type call struct {
	start func(*call) // on that goroutine; closes done, or has it closed
	err   error
	done  chan struct{}
}

// finish completes the call, with the error as it is over a wire: the text
// stays with the server.
func (k *call) finish(err error) {
	k.err = transport.StatusOf(err).Err()
	close(k.done)
}

func (c *conn) do(ctx context.Context, start func(*call)) error {
	k := &call{start: start, done: make(chan struct{})}
	c.mu.Lock()
	c.calls = append(c.calls, k)
	c.mu.Unlock()
	c.poke()
	select {
	case <-k.done:
		return k.err
	case <-c.done:
		if errors.Is(c.Err(), transport.ErrStaleEpoch) {
			return transport.ErrFenced
		}
		return transport.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// OpenChunk implements transport.Conn.
func (c *conn) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	return c.do(ctx, func(k *call) { k.finish(c.s.OpenChunk(chunk, spec)) })
}

// Rebuild implements transport.Conn.
func (c *conn) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (transport.RebuildResult, error) {
	if err := spec.Validate(); err != nil {
		return transport.RebuildResult{}, err
	}
	select {
	case c.places <- struct{}{}:
	case <-c.done:
		return transport.RebuildResult{}, transport.ErrClosed
	case <-ctx.Done():
		return transport.RebuildResult{}, ctx.Err()
	}
	copied := *spec // as over a wire: the caller may go before the server ends
	copied.Sources, copied.Rows = slices.Clone(spec.Sources), slices.Clone(spec.Rows)
	var res transport.RebuildResult
	err := c.do(ctx, func(k *call) {
		c.rebuilds.Go(func() {
			running, cancel := context.WithCancel(context.Background())
			defer cancel()
			over := make(chan struct{})
			defer close(over)
			c.rebuilds.Go(func() {
				select {
				case <-c.stopped:
					cancel()
				case <-over:
				}
			})
			r, err := c.s.Rebuild(running, &copied)
			<-c.places
			select {
			case <-c.stopped: // the answer is lost
			default:
				res = r
				k.finish(err)
			}
		})
	})
	if err != nil {
		return transport.RebuildResult{}, err
	}
	return res, nil
}
