//go:build fabric && cgo

package fabric_test

import (
	"bytes"
	"testing"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
)

// wait submits q by way of f and waits for its end.
func (u *user) wait(q *transport.Request, f func()) {
	u.t.Helper()
	done := make(chan struct{})
	q.Done = func(*transport.Request) { close(done) }
	f()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		u.t.Fatal("waited 10 s")
	}
	if q.Err != nil {
		u.t.Fatal(q.Err)
	}
}

func (u *user) request(c transport.Conn, q *transport.Request) {
	u.t.Helper()
	u.wait(q, func() {
		if err := c.Submit(q); err != nil {
			u.t.Fatal(err)
		}
		c.Kick()
	})
}

// head is the header of a slot, of n bytes.
func (u *user) head(c transport.Conn, chunk uint64, slot uint32, n int) raid.Header {
	u.t.Helper()
	b := u.more[slots-1].Page[:n:n]
	b[0] = 0xff
	u.request(c, &transport.Request{Op: transport.OpReadHeaders, Chunk: chunk, Count: 1, Segs: []transport.Seg{{Index: slot, Header: b}}})
	h, err := raid.ParseHeader(b)
	if err != nil {
		u.t.Fatalf("chunk %d, slot %d: %v", chunk, slot, err)
	}
	return h
}

// A client that dies in the middle of a one-sided write leaves slots that are told
// from those that nobody ever wrote to. Those that it sends a header alone it does
// not erase.
func TestHalfWritten(t *testing.T) { eachHere(t, halfWritten) }

func halfWritten(t *testing.T, provider string) {
	r := start(t, provider, server.Config{Window: 16}, 0)
	u := newUser(t)
	c := u.dial(r.addr, 1)
	const parity, size = chunk + 1, raid.HeaderSize + 2*raid.RowEntrySize
	if err := c.OpenChunk(t.Context(), parity, transport.ChunkSpec{Slots: slots, HeaderBytes: size}); err != nil {
		t.Fatal(err)
	}
	u.fill(1)
	u.request(c, &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: u.segs[:8]})

	q := &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: []transport.Seg{u.segs[3], u.segs[4], u.segs[5], u.segs[6], u.segs[40]}}
	q.Segs[2].Page = nil
	u.wait(q, func() { fabric.Half(c, q) })
	h := raid.Header{Kind: raid.KindParity, Seq: 77, Site: raid.Site{Volume: 1, Index: 9}}
	h.Put(u.more[0].Page[:size:size], make([]raid.RowEntry, 2))
	q = &transport.Request{Op: transport.OpWrite, Chunk: parity, Segs: []transport.Seg{{Index: 9, Header: u.more[0].Page[:size:size], Page: u.more[1].Page}}}
	u.wait(q, func() { fabric.Half(c, q) })

	c = u.dial(r.addr, 2)
	at := func(slot uint32) raid.Site { return raid.Site{Volume: 1, Index: raid.Index(slot)} }
	seq := u.head(c, chunk, 2, raid.HeaderSize).Seq
	for slot, want := range map[uint32]raid.Header{
		3: {Seq: seq - 1}, 4: {Seq: seq - 1}, 6: {Seq: seq - 1}, 8: {}, 39: {}, 40: {Seq: seq - 1}, 41: {},
	} {
		want.Kind, want.Site = raid.KindErased, at(slot)
		if got := u.head(c, chunk, slot, raid.HeaderSize); got != want {
			t.Errorf("slot %d: %+v, not %+v", slot, got, want)
		}
	}
	for _, slot := range []uint32{2, 5, 7} {
		if got := u.head(c, chunk, slot, raid.HeaderSize); got.Kind != raid.KindPage {
			t.Errorf("slot %d: %+v", slot, got)
		}
	}
	for slot, want := range map[uint32]raid.Header{8: {}, 9: {Seq: 76}, 10: {}} {
		want.Kind, want.Site = raid.KindErased, at(slot)
		if got := u.head(c, parity, slot, size); got != want {
			t.Errorf("slot %d of a parity chunk: %+v, not %+v", slot, got, want)
		}
	}
}

// A write that is one operation erases its slots too, before it moves the pages.
func TestWholeErasesFirst(t *testing.T) {
	r := start(t, "tcp", server.Config{Window: 16}, 0)
	u := newUser(t)
	c := u.dial(r.addr, 1)
	u.fill(7)
	q := &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: u.segs[8:10], Done: func(*transport.Request) {}}
	first := fabric.First(c, q)
	if first == nil {
		t.Skip("the provider does not take it as one operation")
	}
	for i, s := range q.Segs {
		w, err := raid.ParseHeader(s.Header)
		if err != nil {
			t.Fatal(err)
		}
		want := raid.Header{Kind: raid.KindErased, Seq: w.Seq - 1, Site: w.Site}
		if h, err := raid.ParseHeader(first[i*raid.HeaderSize:][:raid.HeaderSize]); err != nil || h != want {
			t.Errorf("slot %d: %+v, %v, not %+v", s.Index, h, err, want)
		}
	}
}

// Headers without pages are one operation: nobody sees the slots erased.
func TestHeadersAtOnce(t *testing.T) { eachHere(t, headersAtOnce) }

func headersAtOnce(t *testing.T, provider string) {
	r := start(t, provider, server.Config{Window: 16}, 0)
	u := newUser(t)
	c := u.dial(r.addr, 1)
	u.fill(1)
	q := &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: bareHeaders(u.segs[8:12])}
	was := fabric.Operations(c)
	u.request(c, q)
	if n := fabric.Operations(c) - was; n != 1 {
		t.Errorf("%d operations for headers of one run", n)
	}
}

func bareHeaders(segs []transport.Seg) []transport.Seg {
	var bare []transport.Seg
	for _, s := range segs {
		s.Page = nil
		bare = append(bare, s)
	}
	return bare
}

// Headers of all sizes are reached.
func TestHeaderSizes(t *testing.T) {
	r := start(t, "tcp", server.Config{Window: 16}, 0)
	u := newUser(t)
	c := u.dial(r.addr, 1)
	u.fill(1)
	for i, entries := range []int{raid.MaxData, raid.MaxData, 0, 4} {
		id, size := uint64(chunk+1+i), raid.HeaderSize+entries*raid.RowEntrySize
		if err := c.OpenChunk(t.Context(), id, transport.ChunkSpec{Slots: 2, HeaderBytes: uint32(size)}); err != nil {
			t.Fatal(err)
		}
		if !fabric.Mapped(c, id) {
			t.Errorf("chunk %d with headers of %d bytes is not reached", i, size)
		}
		w := transport.Seg{Index: 1, Header: u.more[0].Page[:size:size], Page: u.segs[7].Page}
		h := raid.Header{Kind: raid.KindParity, CRC: raid.Checksum(w.Page), Site: raid.Site{Volume: 1, Index: 1}}
		if entries == 0 {
			h.Kind = raid.KindPage
		}
		h.Put(w.Header, make([]raid.RowEntry, entries))
		g := transport.Seg{Index: 1, Header: u.more[1].Page[:size:size], Page: u.more[2].Page}
		u.request(c, &transport.Request{Op: transport.OpWrite, Chunk: id, Segs: []transport.Seg{w}})
		u.request(c, &transport.Request{Op: transport.OpRead, Chunk: id, Segs: []transport.Seg{g}})
		if !bytes.Equal(g.Header, w.Header) || !bytes.Equal(g.Page, w.Page) {
			t.Errorf("chunk %d: other bytes than written", i)
		}
	}
}
