package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// opened is a session of volume 1 with chunk 1, which has 8 slots.
func opened(t *testing.T, s *Server, h transport.Hello) *session {
	t.Helper()
	h.Cluster = "c"
	x, _, err := s.Open(t.Context(), h, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	if err := x.OpenChunk(h.Volume, transport.ChunkSpec{Slots: 8, HeaderBytes: raid.HeaderSize}); err != nil && h.Mode == transport.ModeOwner {
		t.Fatal(err)
	}
	return x.(*session)
}

// write is a write of one page to slot 2 of a chunk.
type write struct {
	io     transport.SlotIO
	header raid.Header
	page   []byte
}

func newWrite(chunk uint64) *write {
	w := &write{page: make([]byte, raid.PageSize)}
	w.page[7] = 7
	w.header = raid.Header{Kind: raid.KindPage, Page: 9, Seq: 5, CRC: raid.Checksum(w.page), Site: raid.Site{Volume: 1, Index: 2}}
	w.io = transport.SlotIO{Chunk: chunk, HeaderBytes: raid.HeaderSize, Runs: []transport.Run{{Start: 2, Count: 1}}, Segs: 1, PageMask: 1, Headers: make([]byte, raid.HeaderSize)}
	return w
}

func (w *write) begin(x *session) error {
	w.header.Put(w.io.Headers, nil)
	return x.BeginWrite(&w.io)
}

// commit ends a write that has begun.
func (w *write) commit(x *session) error {
	copy(w.io.Mem[0], w.page)
	return x.CommitWrite(&w.io)
}

func (w *write) do(x *session) error {
	if err := w.begin(x); err != nil {
		return err
	}
	return w.commit(x)
}

// What must not be stored is refused, and leaves an empty slot.
func TestStoredOrRefused(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	x := opened(t, s, transport.Hello{Volume: 1, Epoch: 1})
	c := s.lookup(1)
	holds := func() raid.Seq {
		h, err := raid.ParseHeader(c.head(2))
		if err != nil {
			t.Fatal(err)
		}
		if !h.Holds() {
			return 0
		}
		return h.Seq
	}
	if err := newWrite(1).do(x); err != nil || holds() != 5 {
		t.Fatalf("a write as it should be: %v, the slot holds %d", err, holds())
	}
	for name, change := range map[string]func(w *write){
		"another page":       func(w *write) { w.page[100] ^= 1 },
		"for another slot":   func(w *write) { w.header.Index = 3 },
		"for another volume": func(w *write) { w.header.Volume = 2 },
	} {
		w := newWrite(1)
		change(w)
		if err := w.do(x); !errors.Is(err, transport.ErrChecksum) || holds() != 0 {
			t.Errorf("%s: %v, the slot holds %d", name, err, holds())
		}
	}
	if err := newWrite(1).do(x); err != nil {
		t.Fatal(err)
	}
	w := newWrite(1)
	if err := w.begin(x); err != nil {
		t.Fatal(err)
	}
	if holds() != 0 {
		t.Error("while a page is written its slot keeps the old header")
	}
	if err := w.commit(x); err != nil {
		t.Fatal(err)
	}
	other := opened(t, s, transport.Hello{Volume: 2, Epoch: 1})
	if err := newWrite(1).do(other); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("a write to a chunk of another volume: %v", err)
	}
	spec := &transport.RebuildSpec{Chunk: 1, K: 1, M: 1, Col: 1, Rows: []transport.RebuildRow{{Index: 2, Filled: 1, Have: 1}}, Sources: []transport.RebuildSource{{Addr: "a", Chunk: 3, Col: 0}}}
	if _, err := other.newRebuild(spec); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("a rebuild of a chunk of another volume: %v", err)
	}
	if _, err := x.newRebuild(spec); err != nil {
		t.Error(err)
	}
	reader := opened(t, s, transport.Hello{Volume: 1, Epoch: 1, Mode: transport.ModeReader})
	if err := newWrite(1).do(reader); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a write by a reader: %v", err)
	}
	if _, err := reader.newRebuild(spec); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a rebuild by a reader: %v", err)
	}
}

// A session that is over stores nothing more, whatever it had begun.
func TestNothingIsStoredAfterTheFence(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	x := opened(t, s, transport.Hello{Volume: 1, Epoch: 1})
	c := s.lookup(1)
	w := newWrite(1)
	if err := w.begin(x); err != nil {
		t.Fatal(err)
	}
	x.fence(transport.ErrStaleEpoch)
	if err := w.commit(x); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Errorf("a write that had begun: %v", err)
	}
	if h, err := raid.ParseHeader(c.head(2)); err != nil || h.Holds() {
		t.Errorf("it left %+v, %v", h, err)
	}
	if err := newWrite(1).begin(x); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Errorf("another write: %v", err)
	}
	w.header.Put(w.io.Headers, nil)
	if _, err := x.land(c, 2, 5, w.io.Headers, w.page); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Errorf("a rebuilt slot: %v", err)
	}
	y := opened(t, s, transport.Hello{Volume: 3, Epoch: 1})
	d := s.lookup(3)
	y.Close()
	if _, err := y.land(d, 2, 5, w.io.Headers, w.page); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a rebuilt slot of a session that was closed: %v", err)
	}
}

// A newer client is not let in while the session before has not ended.
func TestNobodyIsLetInBeforeTheLastHasEnded(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	x := opened(t, s, transport.Hello{Volume: 1, Epoch: 1}) // nobody closes it
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	y, _, err := s.Open(ctx, transport.Hello{Cluster: "c", Volume: 1, Epoch: 2}, func(error) {})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("let in beside an older client: %v", err)
	}
	if y != nil {
		y.Close()
	}
	if err := newWrite(1).begin(x); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Errorf("the older client begins a write: %v", err)
	}
}

// A rebuilt slot replaces what is older, or the same, and nothing newer.
func TestRebuiltUnlessNewer(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	x := opened(t, s, transport.Hello{Volume: 1, Epoch: 1})
	if err := newWrite(1).do(x); err != nil {
		t.Fatal(err)
	}
	c := s.lookup(1)
	for _, k := range []struct {
		seq  raid.Seq
		want bool
	}{{4, false}, {5, true}, {6, true}, {5, false}} {
		w := newWrite(1)
		w.header.Seq = k.seq
		w.header.Put(w.io.Headers, nil)
		if ok, err := x.land(c, 2, k.seq, w.io.Headers, w.page); err != nil || ok != k.want {
			t.Errorf("batch %d: %v, %v", k.seq, ok, err)
		}
	}
}

// Nor is it stored where an erased slot says that it is dead, as when its row died while it
// was on its way.
func TestRebuiltOverErased(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	x := opened(t, s, transport.Hello{Volume: 1, Epoch: 1})
	c := s.lookup(1)
	for dead, want := range map[raid.Seq]bool{4: true, 5: false, 6: false} {
		raid.PutErased(c.head(2), c.site(2), dead)
		w := newWrite(1)
		w.header.Put(w.io.Headers, nil)
		if ok, err := x.land(c, 2, 5, w.io.Headers, w.page); err != nil || ok != want {
			t.Errorf("batch 5 where all is dead up to %d: %v, %v", dead, ok, err)
		}
	}
}

// What a source of a rebuild is checked for by itself, one thing at a time.
func TestSoundSource(t *testing.T) {
	g := raid.Geometry{K: 2, M: 2}
	spec := transport.RebuildRow{Index: 4, Tag: raid.TagOf(9), Filled: 3}
	for name, k := range map[string]struct {
		col    raid.Col
		change func(h *raid.Header)
		flip   bool
		want   transport.RebuildReason
	}{
		"a data slot":       {col: 0},
		"a parity slot":     {col: 2},
		"another batch":     {want: transport.RebuildHeader, change: func(h *raid.Header) { h.Seq++ }},
		"other columns":     {want: transport.RebuildHeader, change: func(h *raid.Header) { h.Filled = 1 }},
		"another row":       {want: transport.RebuildHeader, change: func(h *raid.Header) { h.Index++ }},
		"another volume":    {want: transport.RebuildHeader, change: func(h *raid.Header) { h.Volume++ }},
		"parity among data": {want: transport.RebuildHeader, change: func(h *raid.Header) { h.Kind = raid.KindParity }},
		"data among parity": {col: 2, want: transport.RebuildHeader, change: func(h *raid.Header) { h.Kind = raid.KindPage }},
		"no page":           {want: transport.RebuildHeader, change: func(h *raid.Header) { h.Kind = raid.KindView }},
		"another content":   {want: transport.RebuildChecksum, flip: true},
	} {
		page := make([]byte, raid.PageSize)
		h := raid.Header{Kind: raid.KindPage, Filled: 3, Members: 15, Seq: 9, CRC: raid.Checksum(page), Site: raid.Site{Volume: 1, Index: 4}}
		table := []raid.RowEntry(nil)
		if int(k.col) >= g.K {
			h.Kind, table = raid.KindParity, []raid.RowEntry{{Kind: raid.KindPage}, {Kind: raid.KindPage}}
		}
		if k.change != nil {
			k.change(&h)
		}
		if k.flip {
			page[9] ^= 1
		}
		head := make([]byte, raid.HeaderBytes(g, k.col))
		h.Put(head, table)
		var w rebuildRow
		w.begin(0, spec, 1)
		if _, why := w.sound(g, k.col, head, page); why != k.want {
			t.Errorf("%s: %v, want %v", name, why, k.want)
		}
	}
	// Two parity slots of one batch say the same of its pages.
	var w rebuildRow
	for col := raid.Col(2); col < 4; col++ {
		w.heads[col] = make([]byte, raid.HeaderBytes(g, col))
		h := raid.Header{Kind: raid.KindParity, Filled: 3, Members: 15, Seq: 9}
		h.Put(w.heads[col], []raid.RowEntry{{Kind: raid.KindPage, Page: raid.PageNo(col)}, {Kind: raid.KindPage}})
	}
	if w.sameTable(g, 2, 3) {
		t.Error("two tables that differ are the same")
	}
}
