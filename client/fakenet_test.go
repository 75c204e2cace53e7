package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// fakeNet is a network of memory servers that do exactly what the contract
// says, in an order of their own, and can be broken at will.
type fakeNet struct {
	mu      sync.Mutex
	servers map[string]*fakeServer
	lag     time.Duration // of each batch
	opens   time.Duration // how long an answer to an open takes
	asked   func()        // is called before each request is executed; nil: nothing
}

type fakeServer struct {
	inc    uint64
	dead   bool // refuses connections
	full   bool // has no memory for further chunks
	frozen chan struct{}
	narrow bool // loses pages, both ways, but nothing small
	chunks map[uint64]*fakeChunk
	conns  map[*fakeConn]bool

	released map[uint64]bool
	refuses  uint64 // the chunk that it has no memory for
	fills    error  // what those of its chunks end with; nil: it refuses them
}

type fakeChunk struct {
	spec  transport.ChunkSpec
	hdrs  []byte
	pages []byte
}

// newFakeChunk is a chunk of volume 1, as a server makes it.
func newFakeChunk(spec transport.ChunkSpec) *fakeChunk {
	ch := &fakeChunk{spec: spec, hdrs: make([]byte, spec.Slots*spec.HeaderBytes), pages: make([]byte, int(spec.Slots)*raid.PageSize)}
	if !spec.InPlace {
		ch.make(0, int(spec.Slots))
	}
	return ch
}

// make makes slots anew.
func (ch *fakeChunk) make(from, to int) {
	size := int(ch.spec.HeaderBytes)
	for i := from; i < to; i++ {
		raid.PutErased(ch.hdrs[i*size:][:size], raid.Site{Volume: 1, Group: raid.GroupID(ch.spec.Group), Index: raid.Index(i)}, 0)
	}
}

func newFakeNet(n int) *fakeNet {
	f := &fakeNet{servers: map[string]*fakeServer{}}
	for i := range n {
		f.servers[fmt.Sprint("s", i)] = &fakeServer{inc: uint64(i + 1), chunks: map[uint64]*fakeChunk{}, conns: map[*fakeConn]bool{}, released: map[uint64]bool{}}
	}
	return f
}

// newSlowNet is a network for virtual time, which takes some of it.
func newSlowNet(n int) *fakeNet {
	f := newFakeNet(n)
	f.lag = lag / 4
	return f
}

// layout makes a volume over all servers.
func (f *fakeNet) layout(kind raid.LayoutKind, g raid.Geometry, pages uint64, groups int, rows uint32) *raid.Layout {
	l := &raid.Layout{Volume: 1, Name: "test", Kind: kind, Geometry: g, Pages: pages, ChunkSlots: rows, MinAck: g.K, Epoch: 1, FirstEpoch: true}
	chunk := raid.ChunkID(1)
	for i := range groups {
		gr := raid.Group{ID: raid.GroupID(i)}
		for c := range g.Members() {
			id := fmt.Sprint("s", (i+c)%len(f.servers))
			gr.Members = append(gr.Members, raid.Member{Server: raid.ServerID(id), Addr: id, Incarnation: raid.Incarnation(f.servers[id].inc), Chunk: chunk})
			chunk++
		}
		l.Groups = append(l.Groups, gr)
	}
	return l
}

// kill ends a server for ever: its memory is gone.
func (f *fakeNet) kill(id string) {
	f.mu.Lock()
	s := f.servers[id]
	s.dead = true
	conns := s.take()
	f.mu.Unlock()
	for _, c := range conns {
		c.Abort(errors.New("killed"))
	}
}

// restart brings a killed server back, empty.
func (f *fakeNet) restart(id string) {
	f.mu.Lock()
	s := f.servers[id]
	s.dead, s.inc, s.chunks = false, s.inc+1000, map[uint64]*fakeChunk{}
	f.mu.Unlock()
}

// cut breaks all connections; the server keeps its memory.
func (f *fakeNet) cut(id string) {
	f.mu.Lock()
	conns := f.servers[id].take()
	f.mu.Unlock()
	for _, c := range conns {
		c.Abort(errors.New("cut"))
	}
}

func (f *fakeNet) freeze(id string) {
	f.mu.Lock()
	f.servers[id].frozen = make(chan struct{})
	f.mu.Unlock()
}

func (f *fakeNet) thaw(id string) {
	f.mu.Lock()
	close(f.servers[id].frozen)
	f.servers[id].frozen = nil
	f.mu.Unlock()
}

// corrupt flips a bit of a stored page.
func (f *fakeNet) corrupt(id string, chunk uint64, slot, byte int) {
	f.mu.Lock()
	f.servers[id].chunks[chunk].pages[slot*raid.PageSize+byte] ^= 1
	f.mu.Unlock()
}

func (s *fakeServer) take() []*fakeConn {
	var l []*fakeConn
	for c := range s.conns {
		l = append(l, c)
	}
	s.conns = map[*fakeConn]bool{}
	return l
}

func (f *fakeNet) Register([]byte) error { return nil }
func (f *fakeNet) Close() error          { return nil }

func (f *fakeNet) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	f.mu.Lock()
	s := f.servers[addr]
	frozen := s.frozen
	f.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
			return nil, transport.Welcome{}, ctx.Err()
		}
	}
	f.mu.Lock()
	if s.dead {
		f.mu.Unlock()
		return nil, transport.Welcome{}, syscall.ECONNREFUSED
	}
	if h.Incarnation != s.inc {
		f.mu.Unlock()
		return nil, transport.Welcome{}, transport.ErrIncarnation
	}
	old := s.take()
	c := &fakeConn{net: f, s: s, idle: idle, done: make(chan struct{}), bell: make(chan struct{}, 1), cut: make(chan struct{})}
	s.conns[c] = true
	f.mu.Unlock()
	for _, o := range old {
		o.Close() // the fence: nothing of theirs lands later
	}
	go c.serve()
	return c, transport.Welcome{Incarnation: s.inc, Window: 64}, nil
}

type fakeConn struct {
	net  *fakeNet
	s    *fakeServer
	idle func()

	mu    sync.Mutex
	sub   []*transport.Request // submitted, not kicked
	queue []*transport.Request
	lost  []*transport.Request // nobody will answer these
	n     int
	err   error
	cut   chan struct{}
	bell  chan struct{}
	done  chan struct{}
}

func (c *fakeConn) Window() int           { return 64 }
func (c *fakeConn) Done() <-chan struct{} { return c.done }
func (c *fakeConn) Err() error            { return c.err }

func (c *fakeConn) Submit(r *transport.Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return transport.ErrClosed
	case c.n == 64:
		return transport.ErrWindowFull
	}
	c.n++
	c.sub = append(c.sub, r)
	return nil
}

func (c *fakeConn) Kick() {
	c.mu.Lock()
	c.queue = append(c.queue, c.sub...)
	c.sub = c.sub[:0]
	c.mu.Unlock()
	select {
	case c.bell <- struct{}{}:
	default:
	}
}

func (c *fakeConn) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	time.Sleep(c.net.opens)
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if spec.Release {
		c.s.released[chunk] = true
		return nil
	}
	if c.s.chunks[chunk] == nil {
		if spec.MustExist {
			return transport.ErrNoChunk
		}
		if c.s.full || c.s.refuses == chunk {
			return transport.ErrNoMemory
		}
		c.s.chunks[chunk] = newFakeChunk(spec)
	}
	return nil
}

func (c *fakeConn) Rebuild(context.Context, *transport.RebuildSpec) (transport.RebuildResult, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if err := c.s.fills; err != nil {
		return transport.RebuildResult{}, err
	}
	return transport.RebuildResult{}, transport.ErrRefused
}

func (c *fakeConn) Abort(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = cause
		close(c.cut)
	}
}

func (c *fakeConn) Close() error {
	c.Abort(transport.ErrClosed)
	<-c.done
	return nil
}

func (c *fakeConn) serve() {
	defer close(c.done)
	for {
		select {
		case <-c.bell:
		case <-c.cut:
		}
		time.Sleep(c.net.lag)
		c.mu.Lock()
		q := c.queue
		c.queue = nil
		err := c.err
		if err != nil {
			q = append(append(q, c.sub...), c.lost...)
			c.sub, c.lost = nil, nil
		}
		c.mu.Unlock()
		rand.Shuffle(len(q), func(i, j int) { q[i], q[j] = q[j], q[i] })
		for _, r := range q {
			c.net.mu.Lock()
			asked := c.net.asked
			c.net.mu.Unlock()
			if asked != nil {
				asked()
			}
			c.net.mu.Lock()
			frozen := c.s.frozen
			c.net.mu.Unlock()
			if frozen != nil {
				select {
				case <-frozen:
				case <-c.cut:
				}
			}
			if c.loses(r) {
				c.mu.Lock()
				c.lost = append(c.lost, r)
				c.mu.Unlock()
				if !r.Deadline.IsZero() {
					time.AfterFunc(time.Until(r.Deadline), func() { c.Abort(transport.ErrDeadline) })
				}
				continue
			}
			select {
			case <-c.cut:
				r.Err = transport.ErrClosed
			default:
				r.Err = c.execute(r)
			}
			c.mu.Lock()
			c.n--
			c.mu.Unlock()
			r.Done(r)
		}
		c.idle()
		if err != nil {
			return
		}
	}
}

// loses reports whether the line to the server loses r: the session lasts.
func (c *fakeConn) loses(r *transport.Request) bool {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	select {
	case <-c.cut:
		return false
	default:
		return c.s.narrow && r.Segs[0].Page != nil
	}
}

func (c *fakeConn) execute(r *transport.Request) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	ch := c.s.chunks[r.Chunk]
	if ch == nil {
		return transport.ErrNoChunk
	}
	hb := int(ch.spec.HeaderBytes)
	if r.Op == transport.OpReadHeaders {
		copy(r.Segs[0].Header, ch.hdrs[int(r.Segs[0].Index)*hb:][:r.Count*hb])
		return nil
	}
	for _, s := range r.Segs {
		if s.Index >= ch.spec.Slots {
			return transport.ErrNoChunk
		}
	}
	for _, s := range r.Segs {
		h, p := ch.hdrs[int(s.Index)*hb:][:hb], ch.pages[int(s.Index)*raid.PageSize:][:raid.PageSize]
		if len(s.Header) != hb {
			panic(fmt.Sprintf("header of %d bytes for a chunk of %d", len(s.Header), hb))
		}
		if r.Op == transport.OpRead {
			copy(s.Header, h)
			copy(s.Page, p)
			continue
		}
		if hd, err := raid.ParseHeader(s.Header); err != nil || (s.Page != nil && raid.Checksum(s.Page) != hd.CRC) {
			panic(fmt.Sprintf("a write with a wrong header or checksum: %v", err))
		}
		copy(h, s.Header)
		copy(p, s.Page)
	}
	return nil
}
