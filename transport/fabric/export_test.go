//go:build fabric && cgo

package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/transport"
	"dmps/transport/tcp"
)

// Stall freezes and thaws the one-sided half of all sessions that exist, as a
// frozen process does where the provider needs the target's CPU.
func (s *Server) Stall(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.mu.targets {
		if on {
			t.stall()
		} else {
			t.thaw()
		}
	}
}

// Intruder is a client that does not listen: what its link says, and what
// becomes of its operations, does not keep it from writing on.
type Intruder struct{ c *conn }

// linked is a session that has its link, and no endpoint yet.
func linked(ctx context.Context, addr string, h transport.Hello) (c *conn, by []string, err error) {
	by, hostPort, err := ParseAddress(addr)
	if err != nil {
		return nil, nil, err
	}
	c = newConn(new(Dialer), h.Mode, nil)
	link, w, err := c.d.link.Dial(ctx, "tcp://"+hostPort, h, nil)
	if err != nil {
		return nil, nil, err
	}
	c.link, c.window = link.(tcp.Link), w.Window
	return c, by, nil
}

// NewIntruder opens a session and a chunk.
func NewIntruder(ctx context.Context, addr string, h transport.Hello, chunk uint64, spec transport.ChunkSpec) (*Intruder, error) {
	c, by, err := linked(ctx, addr, h)
	if err != nil {
		return nil, err
	}
	x := &Intruder{c}
	if err := c.attachBy(ctx, by, addr); err != nil {
		_ = x.Close()
		return nil, err
	}
	if h.Mode == transport.ModeReader {
		m, err := c.ask(ctx, chunk)
		if err != nil || m.slots == 0 {
			return nil, errors.Join(fmt.Errorf("a reader is given %d slots: %w", m.slots, err), x.Close())
		}
		c.mu.chunks[chunk] = &remote{mapped: m}
	} else if err := c.OpenChunk(ctx, chunk, spec); err != nil {
		_ = x.Close()
		return nil, err
	}
	return x, nil
}

// Write writes b over all pages and all headers of the chunk, again and again
// until stop is closed. written is called after each write that the provider
// reported as done.
func (x *Intruder) Write(chunk uint64, b byte, stop <-chan struct{}, written func()) {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	rem := c.mu.chunks[chunk]
	mem := c.bounce[:transferBytes]
	for i := range mem {
		mem[i] = b
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		if c.mu.ring.waiting() == 0 && c.mu.posted < 8 {
			for at := uint32(0); at < rem.slots; at += transport.MaxSegs {
				n := min(rem.slots-at, transport.MaxSegs)
				o := c.mu.ring.add()
				o.set(opWrite, 0, delivered, rem.pages, uint64(at)*transport.PageSize)
				o.piece(mem[:n*transport.PageSize])
				o = c.mu.ring.add()
				o.set(opWrite, 0, delivered, rem.headers, uint64(at)*uint64(rem.headerBytes))
				o.piece(mem[:n*rem.headerBytes])
			}
		}
		_ = c.postLocked()
		n, _ := c.ep.poll(0, 100*time.Microsecond, false)
		c.mu.posted -= n
		for i := range n {
			if _, err := c.ep.end(i); err == nil {
				written()
			}
		}
	}
}

// Link is the session's link.
func (x *Intruder) Link() transport.Conn { return x.c.link }

// Close ends it.
func (x *Intruder) Close() error {
	x.c.discard()
	return x.c.d.Close()
}

// EagerOf is the threshold of a session.
func EagerOf(c transport.Conn) int { return c.(*conn).eager }

// Operations is how many operations a session has made so far.
func Operations(c transport.Conn) uint32 {
	o := c.(*conn)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.ring.tail
}

// Mapped reports whether a session reaches a chunk's memory.
func Mapped(c transport.Conn, chunk uint64) bool {
	o := c.(*conn)
	o.mu.Lock()
	defer o.mu.Unlock()
	m := o.mu.chunks[chunk]
	return m != nil && m.slots > 0
}

// Reattach attaches a new session, takes its endpoint away, attaches again, opens a
// chunk, whose keys it asks for, and attaches a third time: what became of that.
func Reattach(ctx context.Context, addr string, h transport.Hello, chunk uint64, spec transport.ChunkSpec) (third error, err error) {
	c, by, err := linked(ctx, addr, h)
	if err != nil {
		return nil, err
	}
	defer c.d.Close()
	defer c.discard()
	for range 2 {
		c.reset()
		if err := c.attachBy(ctx, by, addr); err != nil {
			return nil, err
		}
	}
	if err := c.OpenChunk(ctx, chunk, spec); err != nil {
		return nil, err
	}
	if c.mu.chunks[chunk] == nil {
		return nil, errors.New("the chunk has no keys")
	}
	again, err := c.dom.endpoint()
	if err != nil {
		return nil, err
	}
	defer again.close()
	a := attach{provider: by[0], host: "127.0.0.1"}
	if a.addr, err = again.address(); err != nil {
		return nil, err
	}
	_, third = c.link.Extend(ctx, a.put())
	return third, nil
}

// Half makes the first part of a one-sided write and no more, as a client that dies
// there. q is completed then.
func Half(c transport.Conn, q *transport.Request) {
	o := c.(*conn)
	hdr, mask := o.d.regions.Check(q)
	o.mu.Lock()
	k := len(o.mu.free) - 1
	s := &o.mu.slots[o.mu.free[k]]
	o.mu.free = o.mu.free[:k]
	s.req, s.rem, s.hdr, s.mask, s.pending, s.phase = q, o.mu.chunks[q.Chunk], hdr, mask, 0, phaseLast
	s.rem.flight++
	s.encode()
	o.addErased(s, delivered)
	o.mu.Unlock()
	o.Kick()
}

// First is what a one-sided write puts first into the headers of its slots, when it is one
// operation; nil: it is not. It is not made.
func First(c transport.Conn, q *transport.Request) []byte {
	o := c.(*conn)
	hdr, mask := o.d.regions.Check(q)
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.mu.slots[o.mu.free[len(o.mu.free)-1]]
	s.req, s.rem, s.hdr, s.mask, s.pending = q, o.mu.chunks[q.Chunk], hdr, mask, 0
	s.runs = transport.AppendRuns(s.runs[:0], q.Segs)
	s.encode()
	tail := o.mu.ring.tail
	whole := o.addWhole(s, opWrite)
	first := &o.mu.ring.ops[tail&uint32(len(o.mu.ring.ops)-1)]
	o.mu.ring.tail, s.req, s.rem = tail, nil, nil
	n := len(q.Segs) * hdr
	switch addr := uint64(first.iov[0].addr); {
	case !whole:
		return nil
	case addr == uint64(address(s.erased)):
		return bytes.Clone(s.erased[:n])
	case addr == uint64(address(s.heads)):
		return bytes.Clone(s.heads[:n])
	}
	panic("fabric: an operation that begins with something else than headers")
}
