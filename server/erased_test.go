package server

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// slotsOf is an owner's session with a chunk of four slots open, of headers of size
// bytes.
func slotsOf(t *testing.T, size int) (*session, *chunk) {
	t.Helper()
	s := start(t, Config{Cluster: "c"})
	ss, _, err := s.Open(context.Background(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ss.Close)
	if err := ss.OpenChunk(1, transport.ChunkSpec{Slots: 4, HeaderBytes: uint32(size)}); err != nil {
		t.Fatal(err)
	}
	return ss.(*session), s.lookup(1)
}

// writeOf is a write of slots 1 and 2; pages says which has one. Both are zeros.
func writeOf(t *testing.T, seq raid.Seq, size int, pages uint32) *transport.SlotIO {
	t.Helper()
	io := &transport.SlotIO{Chunk: 1, HeaderBytes: size, Runs: []transport.Run{{Start: 1, Count: 2}}, Segs: 2, PageMask: pages}
	kind, table := raid.KindPage, []raid.RowEntry(nil)
	if size > raid.HeaderSize {
		kind, table = raid.KindParity, make([]raid.RowEntry, (size-raid.HeaderSize)/raid.RowEntrySize)
	}
	io.Headers = make([]byte, 2*size)
	for i := range 2 {
		h := raid.Header{Kind: kind, Seq: seq, CRC: raid.Checksum(make([]byte, raid.PageSize)), Site: raid.Site{Volume: 1, Index: raid.Index(1 + i)}}
		h.Put(io.Headers[i*size:][:size], table)
	}
	return io
}

// From the moment that a server begins to receive a page until it has it, the slot
// says that what it held is dead. One that is sent a header alone has the old header or
// the new one, and what nobody writes to stays as it was made.
func TestWhileReceiving(t *testing.T) {
	for _, size := range []int{raid.HeaderSize, raid.HeaderSize + 4*raid.RowEntrySize} {
		s, c := slotsOf(t, size)
		full := raid.KindPage
		if size > raid.HeaderSize {
			full = raid.KindParity
		}
		type holding struct {
			kind raid.HeaderKind
			seq  raid.Seq
		}
		made := holding{kind: raid.KindErased}
		holds := func(when string, one, two holding) {
			t.Helper()
			var got []holding
			for i := range uint32(4) {
				h, err := raid.ParseHeader(c.head(i))
				if err != nil || h.Site != c.site(i) {
					t.Fatalf("%s, slot %d: %+v, %v", when, i, h, err)
				}
				got = append(got, holding{h.Kind, h.Seq})
			}
			if want := []holding{made, one, two, made}; !slices.Equal(got, want) {
				t.Errorf("headers of %d bytes, %s: %v, want %v", size, when, got, want)
			}
		}
		begin := func(io *transport.SlotIO) {
			t.Helper()
			if err := s.BeginWrite(io); err != nil {
				t.Fatal(err)
			}
		}
		commit := func(io *transport.SlotIO) {
			t.Helper()
			if err := s.CommitWrite(io); err != nil {
				t.Fatal(err)
			}
		}
		dead := func(seq raid.Seq) holding { return holding{raid.KindErased, seq} }
		holds("a new chunk", made, made)
		both := writeOf(t, 11, size, 3)
		begin(both)
		holds("both on their way", dead(10), dead(10))
		commit(both)
		holds("both there", holding{full, 11}, holding{full, 11})

		one := writeOf(t, 22, size, 1)
		was := bytes.Clone(c.head(2))
		begin(one)
		holds("one page on its way", dead(21), holding{full, 11})
		if !bytes.Equal(c.head(2), was) {
			t.Errorf("headers of %d bytes: a slot that gets a header alone lost its own", size)
		}
		s.AbortWrite(one)
		holds("given up", dead(21), holding{full, 11})

		heads := writeOf(t, 33, size, 0)
		begin(heads)
		holds("headers alone", dead(21), holding{full, 11})
		commit(heads)
		if !bytes.Equal(c.heads[size:3*size], heads.Headers) {
			t.Errorf("headers of %d bytes: others than written", size)
		}

		bad := writeOf(t, 44, size, 3)
		bad.Headers[24] ^= 1 // its sequence number
		begin(bad)
		holds("one that is damaged on its way", made, dead(43))
	}
}

// What must not be stored is not: headers of other places, erased slots among them, and
// of slots that were lost. Where slots are overwritten in place the last one is a page of zeros.
func TestForeignHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		put  func(b []byte)
		good bool
	}{
		"erased":                   {func(b []byte) { raid.PutErased(b, raid.Site{Volume: 1, Index: 1}, 5) }, true},
		"erased in another slot":   {func(b []byte) { raid.PutErased(b, raid.Site{Volume: 1, Index: 2}, 5) }, false},
		"erased in another group":  {func(b []byte) { raid.PutErased(b, raid.Site{Volume: 1, Group: 1, Index: 1}, 5) }, false},
		"erased in another volume": {func(b []byte) { raid.PutErased(b, raid.Site{Volume: 2, Index: 1}, 5) }, false},
		"zeros":                    {func(b []byte) { clear(b) }, false},
	} {
		s, chunk := slotsOf(t, raid.HeaderSize)
		io := writeOf(t, 5, raid.HeaderSize, 0)
		c.put(io.Headers[:raid.HeaderSize])
		was := bytes.Clone(chunk.head(1))
		if err := s.BeginWrite(io); err != nil {
			t.Fatal(err)
		}
		err := s.CommitWrite(io)
		if stored := !bytes.Equal(chunk.head(1), was); stored != c.good || (err == nil) != c.good {
			t.Errorf("%s: stored %v, %v", name, stored, err)
		}
	}
}

// Receiving allocates nothing.
func TestBeginWriteAllocations(t *testing.T) {
	s, _ := slotsOf(t, raid.HeaderSize)
	io := writeOf(t, 1, raid.HeaderSize, 3)
	n := testing.AllocsPerRun(100, func() {
		io.Mem = io.Mem[:0]
		if err := s.BeginWrite(io); err != nil {
			t.Fatal(err)
		}
		s.AbortWrite(io)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What is not fit to be stored in a slot says nothing of what was there: it is erased, and
// nothing is said to be dead.
func TestRefusedSaysNothing(t *testing.T) {
	site := raid.Site{Volume: 1, Index: 1}
	for name, change := range map[string]func(h *raid.Header){
		"for another slot":   func(h *raid.Header) { h.Index = 3 },
		"for another group":  func(h *raid.Header) { h.Group = 3 },
		"for another volume": func(h *raid.Header) { h.Volume = 3 },
		"damaged":            nil,
	} {
		s, c := slotsOf(t, raid.HeaderSize)
		if err := s.BeginWrite(writeOf(t, 5, raid.HeaderSize, 3)); err != nil {
			t.Fatal(err)
		}
		io := writeOf(t, 9, raid.HeaderSize, 3)
		if change != nil {
			h := raid.Header{Kind: raid.KindPage, Seq: 9, CRC: raid.Checksum(make([]byte, raid.PageSize)), Site: site}
			change(&h)
			h.Put(io.Headers[:raid.HeaderSize], nil)
		} else {
			io.Headers[24] ^= 1
		}
		if err := s.BeginWrite(io); err != nil {
			t.Fatal(err)
		}
		if err := s.CommitWrite(io); err == nil {
			t.Errorf("%s: stored", name)
		}
		if h, err := raid.ParseHeader(c.head(1)); err != nil || h != (raid.Header{Kind: raid.KindErased, Site: site}) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// Where slots are overwritten in place zeros are a page of zeros: a new chunk is made of
// these, and they may be written.
func TestInPlaceChunksAreMadeOfZeros(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	ss, _, err := s.Open(t.Context(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ss.Close)
	if err := ss.OpenChunk(1, transport.ChunkSpec{Slots: 4, HeaderBytes: raid.HeaderSize, InPlace: true}); err != nil {
		t.Fatal(err)
	}
	c := s.lookup(1)
	if !bytes.Equal(c.heads, make([]byte, len(c.heads))) {
		t.Error("a new chunk holds something")
	}
	io := writeOf(t, 5, raid.HeaderSize, 0)
	for range 2 { // a header, and none
		if err := ss.BeginWrite(io); err != nil {
			t.Fatal(err)
		}
		if err := ss.CommitWrite(io); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.heads[raid.HeaderSize:3*raid.HeaderSize], io.Headers) {
			t.Error("other headers than written")
		}
		clear(io.Headers)
	}
}
