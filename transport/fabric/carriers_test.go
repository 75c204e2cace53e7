//go:build fabric && cgo

package fabric_test

import (
	"dmps/chaos/figures"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
)

// rawMover is libfabric alone.
type rawMover struct {
	*fabric.Raw
	c *child
	t *testing.T
}

func newRaw(t *testing.T, provider string) mover {
	r, a, err := fabric.NewRaw(provider, at(provider), false)
	if err != nil {
		t.Skipf("no provider %s: %v", provider, err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	c := startChild(t, childSpec{Provider: provider, Raw: &a})
	if err := r.Connect(c.raw); err != nil {
		t.Fatal(err)
	}
	return &rawMover{r, c, t}
}

func (m *rawMover) fit(_ transport.Op, size int) int { return size }
func (m *rawMover) cpu() time.Duration               { return m.c.cpu(m.t) }

func (m *rawMover) once(op transport.Op, size int) error {
	if err := m.Start(op, size); err != nil {
		return err
	}
	return m.End()
}

func (m *rawMover) several(op transport.Op, size, depth int, d time.Duration) (int, time.Duration, error) {
	return flow(depth, d, func() error { return m.Start(op, size) }, func() (int, error) {
		n := m.InFlight()
		err := m.End()
		return n - m.InFlight(), err
	})
}

// requestMover is a session of dmps. All pages are the same, with the same header,
// here and at the server, so that every size can use the same memory.
type requestMover struct {
	t            *testing.T
	c            *child
	conn         transport.Conn
	pages, heads []byte // by slot
	done         chan *transfer
	known        map[moverKey][]*transfer // each of other slots
	flowing      atomic.Bool
	flow         requestFlow
}

// requestFlow is several transfers in flight: whoever hears of an end starts the
// next one, as Request.Done may.
type requestFlow struct {
	began, warm, until time.Time
	last               time.Time // the end after which none is started
	warmed             bool
	n                  int
}

type moverKey struct {
	op   transport.Op
	size int
}

// transfer is what the figure calls one: requests that are submitted together.
type transfer struct {
	reqs []*transport.Request
	left int   // without an end; of the session's goroutine
	err  error // likewise
}

const figureSlots = fabric.RawBytes / transport.PageSize

func newRequests(t *testing.T, provider string, d transport.Dialer, scheme string) mover {
	mem, err := unix.Mmap(-1, 0, figureSlots*(transport.PageSize+raid.HeaderSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), unix.Munmap(mem)); err != nil {
			t.Error(err)
		}
	})
	m := &requestMover{
		t: t, c: startChild(t, childSpec{Provider: provider, Window: 64, Memory: 64 << 20}),
		pages: mem[:fabric.RawBytes], heads: mem[fabric.RawBytes:], done: make(chan *transfer, 64), known: make(map[moverKey][]*transfer),
	}
	for i := range m.pages {
		m.pages[i] = byte(i % transport.PageSize * 7 >> 3)
	}
	h := raid.Header{Kind: raid.KindPage, Seq: 1, CRC: raid.Checksum(m.pages[:transport.PageSize]), Site: raid.Site{Volume: 1}}
	for i := range figureSlots {
		h.Index = raid.Index(i)
		h.Put(m.heads[i*raid.HeaderSize:][:raid.HeaderSize], nil)
	}
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	_, at, _ := strings.Cut(m.c.addr, "://")
	idle := func() {
		if m.flowing.Load() {
			m.conn.Kick()
		}
	}
	if m.conn, _, err = d.Dial(t.Context(), scheme+"://"+at, hello(1), idle); err != nil {
		t.Fatal(err)
	}
	if err := m.conn.OpenChunk(t.Context(), chunk, transport.ChunkSpec{Slots: figureSlots, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	// What is read later must be what is written now: all slots of a chunk.
	row := figures.TransferRow{Way: figures.Several, Size: 128 << 10}
	measureTransfers(t, m, transport.OpWrite, &row, 10*time.Millisecond)
	return m
}

// fit: below a page there are headers alone, whole ones, in one request.
func (m *requestMover) fit(op transport.Op, size int) int {
	switch n := size / raid.HeaderSize; {
	case size >= transport.PageSize:
		return size
	case size == 4:
		return raid.HeaderSize
	case n < 2 || op == transport.OpWrite && n > transport.MaxSegs:
		return 0
	default:
		return n * raid.HeaderSize
	}
}

// transfer makes one of the slots from slot on.
func (m *requestMover) transfer(k moverKey, slot int) *transfer {
	x := new(transfer)
	ended := func(q *transport.Request) {
		if q.Err != nil {
			x.err = q.Err
		}
		if x.left--; x.left == 0 {
			m.ended(x)
		}
	}
	if k.op == transport.OpRead && k.size < transport.PageSize {
		x.reqs = []*transport.Request{{Op: transport.OpReadHeaders, Chunk: chunk, Count: k.size / raid.HeaderSize, Done: ended,
			Segs: []transport.Seg{{Index: uint32(slot), Header: m.heads[slot*raid.HeaderSize:][:k.size]}}}}
		return x
	}
	for range slotsOf(k.size) {
		if n := len(x.reqs); n == 0 || len(x.reqs[n-1].Segs) == transport.MaxSegs {
			x.reqs = append(x.reqs, &transport.Request{Op: k.op, Chunk: chunk, Done: ended})
		}
		g := transport.Seg{Index: uint32(slot), Header: m.heads[slot*raid.HeaderSize:][:raid.HeaderSize]}
		if k.size >= transport.PageSize {
			g.Page = m.pages[slot*transport.PageSize:][:transport.PageSize]
		}
		q := x.reqs[len(x.reqs)-1]
		q.Segs = append(q.Segs, g)
		slot++
	}
	return x
}

func slotsOf(size int) int {
	if size < transport.PageSize {
		return size / raid.HeaderSize
	}
	return size / transport.PageSize
}

// ended is called on a goroutine of the session.
func (m *requestMover) ended(x *transfer) {
	f := &m.flow
	if !m.flowing.Load() {
		m.done <- x
		return
	}
	switch now := time.Now(); {
	case !f.last.IsZero():
	case !f.warmed && now.After(f.warm):
		f.warmed, f.began, f.n = true, now, 0
	default:
		if f.n++; f.warmed && f.n >= 3 && now.After(f.until) {
			f.last = now
		}
	}
	if x.err == nil && f.last.IsZero() {
		x.err = m.start(x)
	}
	if x.err != nil || !f.last.IsZero() {
		m.done <- x
	}
}

func (m *requestMover) start(x *transfer) error {
	x.left, x.err = len(x.reqs), nil
	for _, q := range x.reqs {
		if err := m.conn.Submit(q); err != nil {
			return err
		}
	}
	return nil
}

// transfers are as many as may be in flight.
func (m *requestMover) transfers(op transport.Op, size int) []*transfer {
	k := moverKey{op, size}
	if m.known[k] == nil {
		for i := range min(32, fabric.RawBytes/size) {
			m.known[k] = append(m.known[k], m.transfer(k, i*slotsOf(size)))
		}
	}
	return m.known[k]
}

func (m *requestMover) once(op transport.Op, size int) error {
	if err := m.start(m.transfers(op, size)[0]); err != nil {
		return err
	}
	m.conn.Kick()
	return (<-m.done).err
}

func (m *requestMover) several(op transport.Op, size, depth int, d time.Duration) (int, time.Duration, error) {
	now := time.Now()
	m.flow = requestFlow{began: now, warm: now.Add(d / 10), until: now.Add(d)}
	m.flowing.Store(true)
	defer m.flowing.Store(false)
	var err error
	flight := m.transfers(op, size)[:depth]
	for _, x := range flight {
		err = errors.Join(err, m.start(x))
	}
	m.conn.Kick()
	for range flight {
		err = errors.Join(err, (<-m.done).err)
	}
	return m.flow.n, m.flow.last.Sub(m.flow.began), err
}

func (m *requestMover) cpu() time.Duration { return m.c.cpu(m.t) }
