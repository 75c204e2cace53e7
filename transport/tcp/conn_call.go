package tcp

import (
	"bytes"
	"context"
	"fmt"

	"dmps/transport"
)

// opens is the number of OpenChunk calls that may be on the wire at once,
// beside the window; extends that of Extend calls.
const (
	opens   = transport.OpensInFlight
	extends = 4
)

// Kinds of calls. Each has places of its own.
const (
	callOpen = iota
	callRebuild
	callExtend
	callKinds
)

// call is an OpenChunk, a Rebuild or an Extend that waits for its answer.
type call struct {
	kind     int
	rows     int                     // callRebuild: how many were asked for
	members  int                     // callRebuild: columns of a row
	result   transport.RebuildResult // callRebuild: the answer
	extended []byte                  // callExtend: the answer
	err      error
	done     chan struct{}
}

// OpenChunk implements transport.Conn.
func (c *conn) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	if spec.HeaderBytes < 1 || spec.HeaderBytes > transport.MaxHeaderBytes {
		return fmt.Errorf("opening chunk %d: slot headers of %d bytes", chunk, spec.HeaderBytes)
	}
	q := request{typ: typeOpenChunk, headerBytes: uint16(spec.HeaderBytes), chunk: chunk}
	return c.do(ctx, &call{kind: callOpen}, q, func() { putOpen(c.w.Bytes(openSize), spec) })
}

// Rebuild implements transport.Conn.
func (c *conn) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (transport.RebuildResult, error) {
	if err := spec.Validate(); err != nil {
		return transport.RebuildResult{}, err
	}
	q := request{typ: typeRebuild, runs: uint8(len(spec.Sources)), chunk: spec.Chunk, segs: uint32(len(spec.Rows))}
	k := &call{kind: callRebuild, rows: len(spec.Rows), members: spec.K + spec.M}
	err := c.do(ctx, k, q, func() { // two pieces: one holds at most stream.MaxBytes
		n := rebuildSourcesSize(spec)
		putRebuild(c.w.Bytes(rebuildHead+n), spec, n)
		putRebuildRows(c.w.Bytes(len(spec.Rows)*rebuildRowSize), spec.Rows)
	})
	if err != nil {
		return transport.RebuildResult{}, err
	}
	return k.result, nil
}

// do sends a call and waits for its answer. body appends what follows q.
func (c *conn) do(ctx context.Context, k *call, q request, body func()) error {
	place := c.places[k.kind]
	select {
	case place <- struct{}{}:
	case <-c.done:
		return transport.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	k.done = make(chan struct{})
	if err := c.send(k, q, body); err != nil {
		<-place
		return err
	}
	c.w.Flush()
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		return ctx.Err() // its place is given back by the answer
	}
}

func (c *conn) send(k *call, q request, body func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.cause != nil {
		return transport.ErrClosed
	}
	if err := c.w.Begin(); err != nil {
		return transport.ErrClosed
	}
	free := c.mu.calls[k.kind] // places: never empty
	i := free[len(free)-1]
	c.mu.calls[k.kind] = free[:len(free)-1]
	s := &c.mu.slots[i]
	s.gen++
	s.call = k
	q.id = uint32(s.gen)<<16 | uint32(i)
	q.put(c.w.Bytes(requestHead))
	body()
	s.end = c.w.End(nil)
	return nil
}

// answer receives what follows the head of a call's answer.
func (c *conn) answer(k *call, p reply) error {
	if k.kind == callOpen || p.status != transport.StatusOK {
		if p.length != 0 {
			return fmt.Errorf("%w: %d bytes in reply to a call", errFrame, p.length)
		}
		return nil
	}
	if k.kind == callExtend {
		if p.length > MaxExtend {
			return fmt.Errorf("%w: answer of %d bytes", errFrame, p.length)
		}
		if p.length == 0 {
			return nil
		}
		b, err := c.r.Next(int(p.length))
		if err != nil {
			return unexpected(err)
		}
		k.extended = bytes.Clone(b)
		return nil
	}
	if p.length > maxRebuildReply {
		return fmt.Errorf("%w: rebuilt, %d bytes", errFrame, p.length)
	}
	b, err := c.r.Next(int(p.length))
	if err != nil {
		return unexpected(err)
	}
	k.result, err = parseRebuildReply(b, k.rows, k.members)
	return err
}
