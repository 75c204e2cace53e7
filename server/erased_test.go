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
// is erased. One that is sent a header alone has the old header or the new one, and
// what nobody writes to stays empty.
func TestWhileReceiving(t *testing.T) {
	for _, size := range []int{raid.HeaderSize, raid.HeaderSize + 4*raid.RowEntrySize} {
		s, c := slotsOf(t, size)
		kinds := func(when string, want ...raid.HeaderKind) {
			t.Helper()
			var got []raid.HeaderKind
			for i := range uint32(4) {
				h, err := raid.ParseHeader(c.head(i))
				if err != nil {
					t.Fatalf("%s, slot %d: %v", when, i, err)
				}
				got = append(got, h.Kind)
			}
			if !slices.Equal(got, want) {
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
		full := raid.KindPage
		if size > raid.HeaderSize {
			full = raid.KindParity
		}
		kinds("a new chunk", 0, 0, 0, 0)
		both := writeOf(t, 1, size, 3)
		begin(both)
		kinds("both on their way", 0, raid.KindErased, raid.KindErased, 0)
		commit(both)
		kinds("both there", 0, full, full, 0)

		one := writeOf(t, 2, size, 1)
		was := bytes.Clone(c.head(2))
		begin(one)
		kinds("one page on its way", 0, raid.KindErased, full, 0)
		if !bytes.Equal(c.head(2), was) {
			t.Errorf("headers of %d bytes: a slot that gets a header alone lost its own", size)
		}
		s.AbortWrite(one)
		kinds("given up", 0, raid.KindErased, full, 0)

		heads := writeOf(t, 3, size, 0)
		begin(heads)
		kinds("headers alone", 0, raid.KindErased, full, 0)
		commit(heads)
		if !bytes.Equal(c.heads[size:3*size], heads.Headers) {
			t.Errorf("headers of %d bytes: others than written", size)
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
