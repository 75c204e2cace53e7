package transporttest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

func (r *rig) same(got, want *transport.Request) {
	r.t.Helper()
	for i := range want.Segs {
		if !bytes.Equal(got.Segs[i].Header, want.Segs[i].Header) || !bytes.Equal(got.Segs[i].Page, want.Segs[i].Page) {
			r.t.Fatalf("slot %d: other bytes than written", want.Segs[i].Index)
		}
	}
}

func testReadWrite(t *testing.T, m Medium) {
	var full []uint32
	for i := range transport.MaxSegs {
		full = append(full, uint32(i))
	}
	for _, x := range [][]uint32{{0}, {slots - 1}, {3, 4, 5}, {9, 7, 8, 1}, {5, 0, 1, 40, 41, 39}, full} {
		r := newRig(t, m)
		c := r.session()
		w := r.request(transport.OpWrite, 1, x...)
		if err := r.do(c, w); err != nil {
			t.Fatal(err)
		}
		g := r.request(transport.OpRead, 0, x...)
		if err := r.do(c, g); err != nil {
			t.Fatal(err)
		}
		r.same(g, w)
		// The other way round, with a page left out.
		rand.Shuffle(len(g.Segs), func(i, j int) {
			g.Segs[i], g.Segs[j] = g.Segs[j], g.Segs[i]
			w.Segs[i], w.Segs[j] = w.Segs[j], w.Segs[i]
		})
		for _, s := range g.Segs {
			clear(s.Page)
			clear(s.Header)
		}
		g.Segs[0].Page, w.Segs[0].Page = nil, nil
		if err := r.do(c, g); err != nil {
			t.Fatal(err)
		}
		r.same(g, w)
	}
}

func testHeaderOnly(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	w := r.request(transport.OpWrite, 1, 1, 2, 3)
	h := raid.Header{Kind: raid.KindFill, Fill: 9, Page: 2, Seq: 5, Site: site(2)}
	h.Put(w.Segs[1].Header, nil)
	w.Segs[1].Page = nil
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	g := r.request(transport.OpRead, 0, 1, 2, 3)
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	g.Segs[1].Page = nil
	r.same(g, w)
}

// The header of an erased slot without a page erases a slot; no other slot is touched.
func testErase(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	w := r.request(transport.OpWrite, 1, 0, 1, 2, 3, 4)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	e := r.request(transport.OpWrite, 0, 3, 1)
	for i := range e.Segs {
		raid.PutErased(e.Segs[i].Header, site(e.Segs[i].Index), 7)
		e.Segs[i].Page = nil
	}
	if err := r.do(c, e); err != nil {
		t.Fatal(err)
	}
	g := r.request(transport.OpRead, 0, 0, 1, 2, 3, 4)
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	for _, s := range []int{1, 3} {
		raid.PutErased(w.Segs[s].Header, site(w.Segs[s].Index), 7)
		g.Segs[s].Page, w.Segs[s].Page = nil, nil // no longer of concern
	}
	r.same(g, w)
}

// holding is what a slot holds: a kind, and for an erased one up to where all is dead.
type holding struct {
	kind raid.HeaderKind
	seq  raid.Seq
}

// holds reads what n slots from the first on hold.
func (r *rig) holds(c transport.Conn, n int) []holding {
	r.t.Helper()
	q := &transport.Request{Op: transport.OpReadHeaders, Chunk: chunk, Count: n, Segs: []transport.Seg{{Header: r.take(n * raid.HeaderSize)}}}
	if err := r.do(c, q); err != nil {
		r.t.Fatal(err)
	}
	var all []holding
	for i := range n {
		h, err := raid.ParseHeader(q.Segs[0].Header[i*raid.HeaderSize:][:raid.HeaderSize])
		if err != nil {
			r.t.Fatalf("slot %d: %v", i, err)
		}
		all = append(all, holding{h.Kind, h.Seq})
	}
	return all
}

// A slot of which a write did not end is told from one that was never written: the
// client that reads the headers after a crash may think that a member whose slot is
// as it was made never heard of the row. One whose slot was erased since did, or held
// another, and says that this is dead.
func testHalfWritten(t *testing.T, m Medium) {
	if m.Unverified {
		t.Skip("the server refuses nothing that it does not see")
	}
	r := newRig(t, m)
	c := r.session()
	if err := r.do(c, r.request(transport.OpWrite, 1, 1)); err != nil {
		t.Fatal(err)
	}
	bad := r.request(transport.OpWrite, 2, 1, 2, 3)
	bad.Segs[0].Page[5] ^= 1
	bad.Segs[1].Page[5] ^= 1
	if err := r.do(c, bad); !errors.Is(err, transport.ErrChecksum) {
		t.Fatal(err)
	}
	made, begun := holding{raid.KindErased, 0}, holding{raid.KindErased, r.seq(bad.Segs[0]) - 1}
	want := []holding{made, begun, begun, {raid.KindPage, r.seq(bad.Segs[2])}, made}
	if got := r.holds(c, 5); !slices.Equal(got, want) {
		t.Errorf("the slots hold %v, want %v", got, want)
	}
	again := r.request(transport.OpWrite, 3, 1, 2)
	if err := r.do(c, again); err != nil {
		t.Fatal(err)
	}
	want[1], want[2] = holding{raid.KindPage, r.seq(again.Segs[0])}, holding{raid.KindPage, r.seq(again.Segs[1])}
	if got := r.holds(c, 5); !slices.Equal(got, want) {
		t.Errorf("written again, the slots hold %v, want %v", got, want)
	}
}

func testOutOfRange(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	for _, x := range [][]uint32{{slots}, {0, slots}, {slots - 1, slots}, {1<<32 - 1}} {
		for _, op := range []transport.Op{transport.OpRead, transport.OpWrite} {
			if err := r.do(c, r.request(op, 1, x...)); !errors.Is(err, transport.ErrNoChunk) {
				t.Errorf("operation %d on slots %d: %v", op, x, err)
			}
		}
	}
	q := r.request(transport.OpRead, 1, 0)
	q.Chunk++
	if err := r.do(c, q); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("other chunk: %v", err)
	}
	q = &transport.Request{Op: transport.OpRead, Chunk: chunk, Segs: []transport.Seg{{Header: r.take(raid.HeaderSize + 16)}}}
	if err := r.do(c, q); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("other header size: %v", err)
	}
	// A refusal is no failure of the session, and no byte of it is taken for
	// the next request.
	if err := r.do(c, r.request(transport.OpWrite, 1, 0)); err != nil {
		t.Error(err)
	}
}

func testOpenChunk(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	x := ctx(t)
	if err := c.OpenChunk(x, chunk, spec); err != nil {
		t.Errorf("again: %v", err)
	}
	other := spec
	other.Slots++
	if err := c.OpenChunk(x, chunk, other); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("other shape: %v", err)
	}
	must := spec
	must.MustExist = true
	if err := c.OpenChunk(x, chunk, must); err != nil {
		t.Errorf("must exist, and does: %v", err)
	}
	if err := c.OpenChunk(x, chunk+1, must); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("must exist, and does not: %v", err)
	}
	big := spec
	big.Slots = 1 << 31
	if err := c.OpenChunk(x, chunk+2, big); !errors.Is(err, transport.ErrNoMemory) {
		t.Errorf("too large: %v", err)
	}
	h := r.hello(1)
	h.Volume++
	if err := r.dial(h, nil).OpenChunk(x, chunk, spec); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("another volume's: %v", err)
	}
	g := r.request(transport.OpRead, 0, 0)
	g.Segs[0].Header[0] = 1
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	if got, err := raid.ParseHeader(g.Segs[0].Header); err != nil || got != (raid.Header{Kind: raid.KindErased, Site: site(0)}) {
		t.Errorf("a new slot holds %+v, %v", got, err)
	}
}

func testReadHeaders(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	w := r.request(transport.OpWrite, 3, 10, 11, 13)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	q := &transport.Request{Op: transport.OpReadHeaders, Chunk: chunk, Count: 5, Segs: []transport.Seg{{Index: 9, Header: r.take(5 * raid.HeaderSize)}}}
	if err := r.do(c, q); err != nil {
		t.Fatal(err)
	}
	for i, kind := range []raid.HeaderKind{raid.KindErased, raid.KindPage, raid.KindPage, raid.KindErased, raid.KindPage} {
		h, err := raid.ParseHeader(q.Segs[0].Header[i*raid.HeaderSize:][:raid.HeaderSize])
		if err != nil || h.Kind != kind || kind == raid.KindPage && h.Page != raid.PageNo(9+i) {
			t.Errorf("header %d: %+v, %v", i, h, err)
		}
	}
	q.Segs[0].Index = slots - 4
	if err := r.do(c, q); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("past the end: %v", err)
	}
	// The largest: far more than a stage holds.
	const many = transport.MaxHeadersBytes / raid.HeaderSize
	if err := c.OpenChunk(ctx(t), chunk+1, transport.ChunkSpec{Slots: many, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	q = &transport.Request{Op: transport.OpReadHeaders, Chunk: chunk + 1, Count: many, Segs: []transport.Seg{{Header: r.take(many * raid.HeaderSize)}}}
	if err := r.do(c, q); err != nil {
		t.Error(err)
	}
}

func testChecksum(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	if err := r.do(c, r.request(transport.OpWrite, 1, 4, 5, 6)); err != nil {
		t.Fatal(err)
	}
	w := r.request(transport.OpWrite, 2, 4, 5, 6)
	w.Segs[1].Page[100] ^= 1
	if m.Unverified {
		testUnverified(r, c, w)
		return
	}
	if err := r.do(c, w); !errors.Is(err, transport.ErrChecksum) {
		t.Fatalf("a damaged page: %v", err)
	}
	w.Segs[2].Header[9] ^= 1
	if err := r.do(c, w); !errors.Is(err, transport.ErrChecksum) {
		t.Fatalf("a damaged header: %v", err)
	}
	g := r.request(transport.OpRead, 0, 5, 6)
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	for _, s := range g.Segs {
		if h, err := raid.ParseHeader(s.Header); err != nil || h.Kind != raid.KindErased {
			t.Errorf("slot %d after the refusal: %+v, %v", s.Index, h, err)
		}
	}
}

// What the server did not verify shows when it is read.
func testUnverified(r *rig, c transport.Conn, w *transport.Request) {
	r.t.Helper()
	w.Segs[2].Header[9] ^= 1
	if err := r.do(c, w); err != nil {
		r.t.Fatal(err)
	}
	g := r.request(transport.OpRead, 0, 4, 5, 6)
	if err := r.do(c, g); err != nil {
		r.t.Fatal(err)
	}
	r.same(g, w)
	for i, good := range []bool{true, false, false} {
		s := g.Segs[i]
		h, err := raid.ParseHeader(s.Header)
		if got := err == nil && h.CRC == raid.Checksum(s.Page); got != good {
			r.t.Errorf("slot %d: sound is %v, not %v", s.Index, got, good)
		}
	}
}

// A header that names another slot or volume than it is sent to is not stored. What
// the slot held stays, unless its memory was needed for a page.
func testMisdirected(t *testing.T, m Medium) {
	for _, inPlace := range []bool{false, true} {
		if m.Unverified && !inPlace {
			continue
		}
		r := newRig(t, m)
		c := r.dial(r.hello(1), nil)
		s := spec
		s.InPlace = inPlace
		id := uint64(chunk)
		if inPlace {
			id++
		}
		if err := c.OpenChunk(ctx(t), id, s); err != nil {
			t.Fatal(err)
		}
		w, g := r.request(transport.OpWrite, 1, 4, 9), r.request(transport.OpRead, 0, 4, 9)
		w.Chunk, g.Chunk = id, id
		for name, f := range map[string]func(*raid.Header){
			"another slot":           func(h *raid.Header) { h.Index = 4 },
			"another volume":         func(h *raid.Header) { h.Volume++ },
			"another group":          func(h *raid.Header) { h.Group++ },
			"another slot, no page":  func(h *raid.Header) { h.Kind, h.Index = raid.KindFill, 8 },
			"another slot of a view": func(h *raid.Header) { h.Kind, h.Index = raid.KindView, 8 },
		} {
			if err := r.do(c, w); err != nil {
				t.Fatal(err)
			}
			bad := r.request(transport.OpWrite, 2, 4, 9)
			bad.Chunk = id
			kind := raid.KindPage
			if err := change(bad.Segs[1].Header, func(h *raid.Header) { f(h); kind = h.Kind }); err != nil {
				t.Fatal(err)
			}
			if kind != raid.KindPage {
				bad.Segs[1].Page = nil
			}
			if err := r.do(c, bad); !errors.Is(err, transport.ErrChecksum) {
				t.Errorf("in place %v, %s: %v", inPlace, name, err)
			}
			if err := r.do(c, g); err != nil {
				t.Fatal(err)
			}
			same := bytes.Equal(g.Segs[1].Header, w.Segs[1].Header) && bytes.Equal(g.Segs[1].Page, w.Segs[1].Page)
			h, err := raid.ParseHeader(g.Segs[1].Header)
			erased := err == nil && h.Kind == raid.KindErased
			if keeps := inPlace || kind != raid.KindPage; keeps && !same || !keeps && !erased {
				t.Errorf("in place %v, %s: the slot holds %+v, %v", inPlace, name, h, err)
			}
			if !bytes.Equal(g.Segs[0].Header, bad.Segs[0].Header) {
				t.Errorf("in place %v, %s: the other slot of the request was not stored", inPlace, name)
			}
		}
	}
}

// A view is a header without a page.
func testView(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	w := r.request(transport.OpWrite, 1, 0, 1)
	for i := range w.Segs {
		h := raid.Header{Kind: raid.KindView, Members: 5, Seq: 9, Settled: 8, Site: site(uint32(i))}
		h.Put(w.Segs[i].Header, nil)
		w.Segs[i].Page = nil
	}
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	g := r.request(transport.OpRead, 0, 0, 1)
	g.Segs[0].Page, g.Segs[1].Page = nil, nil
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	r.same(g, w)
}

// A request is as large as one can be: the parity slots of sixteen columns.
func testLargestHeaders(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.dial(r.hello(1), nil)
	s := spec
	s.HeaderBytes = raid.MaxHeaderSize
	if err := c.OpenChunk(ctx(t), chunk, s); err != nil {
		t.Fatal(err)
	}
	var reqs [2]*transport.Request
	for i, op := range []transport.Op{transport.OpWrite, transport.OpRead} {
		q := &transport.Request{Op: op, Chunk: chunk}
		for x := range uint32(transport.MaxSegs) {
			q.Segs = append(q.Segs, transport.Seg{Index: 2 * x, Header: r.take(raid.MaxHeaderSize), Page: r.take(transport.PageSize)})
		}
		reqs[i] = q
	}
	table := make([]raid.RowEntry, raid.MaxData)
	for i, g := range reqs[0].Segs {
		g.Page[i] = 1
		h := raid.Header{Kind: raid.KindParity, Filled: 1<<raid.MaxData - 1, Seq: 9, CRC: raid.Checksum(g.Page), Site: site(g.Index)}
		for k := range table {
			table[k] = raid.RowEntry{Page: raid.PageNo(i + k), CRC: uint32(i * k), Kind: raid.KindPage}
		}
		h.Put(g.Header, table)
	}
	for _, q := range reqs {
		if err := r.do(c, q); err != nil {
			t.Fatal(err)
		}
	}
	r.same(reqs[1], reqs[0])
}

// A refused write leaves the old page of a chunk that is overwritten in place.
func testInPlace(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.dial(r.hello(1), nil)
	s := spec
	s.InPlace = true
	if err := c.OpenChunk(ctx(t), chunk, s); err != nil {
		t.Fatal(err)
	}
	w := r.request(transport.OpWrite, 1, 4, 9)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	bad := r.request(transport.OpWrite, 2, 4, 9)
	bad.Segs[0].Page[0] ^= 1
	bad.Segs[1].Page[0] ^= 1
	if err := r.do(c, bad); !errors.Is(err, transport.ErrChecksum) {
		t.Fatal(err)
	}
	g := r.request(transport.OpRead, 0, 4, 9)
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	r.same(g, w)
	w = r.request(transport.OpWrite, 3, 4, 9)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	r.same(g, w)
}

func testConcurrent(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	var wg sync.WaitGroup
	for i := range window {
		w, g := r.request(transport.OpWrite, 0, uint32(i), uint32(i+20)), r.request(transport.OpRead, 0, uint32(i), uint32(i+20))
		wg.Go(func() {
			done := make(chan struct{}, 1)
			w.Done = func(*transport.Request) { done <- struct{}{} }
			g.Done = w.Done
			for seq := range uint64(50) {
				for _, s := range w.Segs {
					fill(s, uint64(s.Index), seq)
				}
				for _, q := range []*transport.Request{w, g} {
					if err := c.Submit(q); err != nil {
						t.Error(err)
						return
					}
					c.Kick()
					<-done
					if q.Err != nil {
						t.Error(q.Err)
						return
					}
				}
				for k := range w.Segs {
					if !bytes.Equal(g.Segs[k].Page, w.Segs[k].Page) || !bytes.Equal(g.Segs[k].Header, w.Segs[k].Header) {
						t.Error("other bytes than written")
						return
					}
				}
			}
		})
	}
	wg.Wait()
}
