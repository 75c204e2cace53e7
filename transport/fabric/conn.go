//go:build fabric && cgo

package fabric

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dmps/transport"
	"dmps/transport/tcp"
)

// epoch is the zero of Request.Wire.Start.
var epoch = time.Now()

// bounces is the number of buffers of a session for requests whose pages the
// provider cannot gather: two for reading and two for writing in the paper, for
// each of some requests in flight here. Without a free one the pages go in
// several operations.
const bounces = 16

// A reader's session has room for fewer one-sided requests in flight; more go over
// the link. A server that rebuilds has such a session with every source, and a few
// reads in flight there.
const (
	readerRequests = 32
	readerBounces  = 4
)

const (
	transferBytes = transport.MaxSegs * transport.PageSize       // the largest request's pages
	headerScratch = transport.MaxSegs * transport.MaxHeaderBytes // and headers
	// maxOps bounds the operations of a request: one a page and two a header,
	// when no two are neighbours.
	maxOps = 3 * transport.MaxSegs
)

// conn is the client's end of a session: a link, and an endpoint for what is
// one-sided. Its goroutine polls the endpoint; operations are posted by whoever
// calls Kick, and by that goroutine.
type conn struct {
	d        *Dialer
	provider string
	link     tcp.Link
	ep       *endpoint
	dom      *domain
	window   int
	reader   bool
	idle     func()
	eager    int // set before the session begins
	probed   key // what readProbe reads
	spin     time.Duration
	done     chan struct{}

	scratch []byte         // registered: heads, bounces
	heads   []byte         // twice headerScratch a one-sided request: of erased slots, and what it writes or reads
	bounce  []byte         // transferBytes each
	mapping sync.WaitGroup // goroutines in mapLater

	// calls is held while Done or idle of the caller is called: the link's
	// goroutine and this session's take turns.
	calls sync.Mutex

	mu struct {
		sync.Mutex
		cause  error // why the session ends; set once
		slots  []slot
		free   []uint16
		spare  []int8 // bounces that nobody uses
		chunks map[uint64]*remote
		ring   ring
		posted int // operations without an end
		// refused: the provider did not take all that waits. The session's goroutine
		// tries again, after ends and every millisecond.
		refused bool
		linked  bool
		alarm   transport.Alarm
	}

	ended []uint16 // of the session's goroutine
}

// remote is a chunk whose memory at the server this session may reach.
type remote struct {
	mapped               // of no slots: asked for, or not to be had
	flight int           // one-sided requests in flight
	gone   chan struct{} // closed when flight falls to 0 after a release; nil: none
}

func newConn(d *Dialer, mode transport.Mode, idle func()) *conn {
	c := &conn{d: d, reader: mode == transport.ModeReader, idle: idle, done: make(chan struct{}), eager: max(d.Eager, 0), spin: d.Spin}
	if c.spin == 0 {
		c.spin = DefaultSpin
	}
	c.spin = max(c.spin, 0)
	c.mu.chunks = make(map[uint64]*remote)
	c.mu.alarm.Init(c.expire)
	return c
}

// alloc makes what needs the window and the domain.
func (c *conn) alloc(dom *domain) error {
	var err error
	requests, spare := c.window, bounces
	if c.reader {
		requests, spare = min(c.window, readerRequests), readerBounces
	}
	heads := requests * 2 * headerScratch
	if c.scratch, err = dom.scratch(heads + spare*transferBytes); err != nil {
		return err
	}
	c.dom = dom
	c.heads, c.bounce = c.scratch[:heads], c.scratch[heads:]
	if c.mu.ring, err = newRing(requests * maxOps); err != nil {
		return err
	}
	c.mu.slots = make([]slot, c.window)
	for i := range c.mu.slots {
		c.mu.slots[i].init(c, i)
		c.mu.free = append(c.mu.free, uint16(c.window-1-i)) // those with scratch are taken first
	}
	for i := range spare {
		c.mu.spare = append(c.mu.spare, int8(i))
	}
	c.ended = make([]uint16, 0, pollEnds)
	return nil
}

// discard gives back what a session has that was never handed out.
func (c *conn) discard() {
	if c.link != nil {
		_ = c.link.Close() // nil always
	}
	c.release()
}

// release ends the endpoint and gives the memory back. No operation touches any
// memory when it returns.
func (c *conn) release() {
	if c.ep != nil {
		_ = c.ep.close() // a failure leaks, and there is nobody to tell
		c.ep = nil
	}
	c.mu.ring.free()
	if c.scratch != nil {
		c.dom.putScratch(c.scratch)
		c.scratch = nil
	}
}

// reset is release, for another attempt to attach.
func (c *conn) reset() {
	c.release()
	c.heads, c.bounce, c.ended = nil, nil, nil
	c.mu.slots, c.mu.free, c.mu.spare, c.mu.posted, c.mu.refused = nil, nil, nil, 0, false
}

// Carrier implements transport.Carrier.
func (c *conn) Carrier() string { return schemePrefix + c.provider }

// Submit implements transport.Conn.
func (c *conn) Submit(r *transport.Request) error {
	hdr, mask := c.d.regions.Check(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.cause != nil {
		return transport.ErrClosed
	}
	k := len(c.mu.free) - 1
	if k < 0 {
		return transport.ErrWindowFull
	}
	i := c.mu.free[k]
	s := &c.mu.slots[i]
	rem := c.mu.chunks[r.Chunk]
	if rem == nil && c.reader {
		c.mapLaterLocked(r.Chunk)
	}
	if rem == nil || !rem.reaches(r, hdr) || size(r, hdr, mask) <= c.eager || c.reader && (r.Op == transport.OpWrite || s.heads == nil) {
		if err := c.link.Submit(s.borrow(r)); err != nil {
			s.req = nil
			return err
		}
		c.mu.linked = true
		c.d.linked.Add(1)
	} else {
		c.d.oneSided.Add(1)
		s.req, s.rem, s.hdr, s.mask = r, rem, hdr, mask
		rem.flight++
		c.beginLocked(s)
	}
	c.mu.free = c.mu.free[:k]
	r.Err, r.Wire.ID, r.Wire.Start = nil, uint32(i), int64(time.Since(epoch))
	c.mu.alarm.Set(r.Deadline)
	return nil
}

// reaches reports whether all of r lies inside the chunk as it was mapped. What
// does not goes to the server, to be refused by it.
func (m *remote) reaches(r *transport.Request, hdr int) bool {
	if hdr != int(m.headerBytes) {
		return false
	}
	if r.Op == transport.OpReadHeaders {
		return uint64(r.Segs[0].Index)+uint64(r.Count) <= uint64(m.slots)
	}
	for i := range r.Segs {
		if r.Segs[i].Index >= m.slots {
			return false
		}
	}
	return true
}

// size is what a request moves, in bytes.
func size(r *transport.Request, hdr int, mask uint32) int {
	if r.Op == transport.OpReadHeaders {
		return len(r.Segs[0].Header)
	}
	return len(r.Segs)*hdr + ones(mask)*transport.PageSize
}

// Kick implements transport.Conn.
func (c *conn) Kick() {
	c.mu.Lock()
	linked := c.mu.linked
	c.mu.linked = false
	if c.mu.cause == nil && c.mu.ring.waiting() > 0 && !c.mu.refused {
		// The session's goroutine posts as well, and while it looks for ends that
		// is better: two threads in the provider wait for each other's locks.
		if c.mu.posted == 0 || c.ep.sleeping() {
			_ = c.postLocked() // its goroutine meets the failure as well
		}
		// Who sleeps on the queue must look at it after each post: tcp keeps
		// the rest of what a full socket did not take without telling those
		// that wait, and it then stayed for as long as they slept. Under the
		// lock: the endpoint is not closed meanwhile.
		c.ep.wake()
	}
	c.mu.Unlock()
	if linked {
		c.link.Kick()
	}
}

// postLocked posts what waits, as far as the provider takes it.
func (c *conn) postLocked() error {
	n, err := c.mu.ring.post(c.ep, c.dom.caps.inFlight-c.mu.posted)
	c.mu.posted += n
	c.mu.refused = c.mu.ring.waiting() > 0
	return err
}

// OpenChunk implements transport.Conn. The chunk's memory at the server is
// mapped if the server exposes it; else its requests go over the link.
func (c *conn) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	if spec.Release {
		if err := c.unmap(ctx, chunk); err != nil {
			return err
		}
		return c.link.OpenChunk(ctx, chunk, spec)
	}
	if err := c.link.OpenChunk(ctx, chunk, spec); err != nil {
		return err
	}
	if spec.InPlace || c.reader {
		return nil // pages go through the server's stage; a reader maps what it reads
	}
	c.mu.Lock()
	known := c.mu.chunks[chunk] != nil
	c.mu.Unlock()
	if known {
		return nil
	}
	m, err := c.ask(ctx, chunk)
	if err == nil && m.slots != 0 && (m.slots != spec.Slots || m.headerBytes != spec.HeaderBytes) {
		err = fmt.Errorf("%w: %w: chunk %d of %d slots with headers of %d bytes", transport.ErrClosed, errMessage, chunk, m.slots, m.headerBytes)
		c.Abort(err)
	}
	if err != nil || m.slots == 0 {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.chunks[chunk] != nil {
		return nil
	}
	c.mu.chunks[chunk] = &remote{mapped: m}
	return nil
}

// ask asks for the keys of a chunk. Without slots it is not to be had that way: the
// server has none, or stages its pages, or the provider does not take its memory.
func (c *conn) ask(ctx context.Context, chunk uint64) (mapped, error) {
	answer, err := c.link.Extend(ctx, putMap(chunk))
	if errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrNoChunk) {
		return mapped{}, nil
	}
	if err != nil {
		return mapped{}, err
	}
	m, err := parseMapped(answer)
	if err == nil && m.slots == 0 {
		err = fmt.Errorf("%w: chunk %d of no slots", errMessage, chunk)
	}
	if err != nil {
		c.Abort(err)
		return mapped{}, fmt.Errorf("%w: %w", transport.ErrClosed, err)
	}
	return m, nil
}

// mapLaterLocked maps a chunk for a reader, once: those open no chunks, and know no
// shapes. Until it is mapped the link carries what is read there.
func (c *conn) mapLaterLocked(chunk uint64) {
	rem := new(remote)
	c.mu.chunks[chunk] = rem
	c.mapping.Go(func() {
		// It ends with the link, which says why to those that have to know.
		m, err := c.ask(context.Background(), chunk)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err == nil && c.mu.chunks[chunk] == rem { // not released meanwhile
			rem.mapped = m
		}
	})
}

// unmap forgets a chunk and waits until no one-sided request is in flight there.
func (c *conn) unmap(ctx context.Context, chunk uint64) error {
	c.mu.Lock()
	rem := c.mu.chunks[chunk]
	delete(c.mu.chunks, chunk)
	var gone chan struct{}
	if rem != nil && rem.flight > 0 {
		gone = make(chan struct{})
		rem.gone = gone
	}
	c.mu.Unlock()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-c.done:
		return transport.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Rebuild implements transport.Conn, over the link.
func (c *conn) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (transport.RebuildResult, error) {
	return c.link.Rebuild(ctx, spec)
}

// Window implements transport.Conn.
func (c *conn) Window() int { return c.window }

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
	if c.mu.cause == nil {
		c.mu.cause = transport.Ended(cause)
	}
	if c.ep != nil {
		c.ep.wake()
	}
	c.mu.Unlock()
	c.link.Abort(cause)
}

// Close implements transport.Conn.
func (c *conn) Close() error {
	c.Abort(transport.ErrClosed)
	<-c.done
	return nil
}
