package server

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// swept waits until all memory of dropped chunks is free, or the system's.
func swept(t *testing.T, s *Server) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		n := len(s.mu.dirty)
		s.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("dropped memory is not cleared")
		}
	}
}

// While dropped memory is cleared, which takes seconds for many GiB, the server is
// there for everybody: it beats, lets sessions in, and opens chunks in other memory.
// Who needs that memory waits, and sees nothing of what was there.
func TestClearingHoldsUpNobody(t *testing.T) {
	s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0", Memory: 4 << 20})
	begun, goOn := make(chan struct{}), make(chan struct{})
	s.zero = func(b []byte) {
		begun <- struct{}{}
		<-goOn
		clear(b)
	}
	_, c, _ := client(t, s, 1)
	spec := transport.ChunkSpec{Slots: 600, HeaderBytes: raid.HeaderSize}
	size := uint64(chunkSize(spec))
	if err := c.OpenChunk(t.Context(), 1, spec); err != nil {
		t.Fatal(err)
	}
	old := s.lookup(1)
	for i := range old.pages {
		old.pages[i] = 7
	}
	release := spec
	release.Release = true
	if err := c.OpenChunk(t.Context(), 1, release); err != nil {
		t.Fatal(err)
	}
	if len(s.Drop([]raid.ChunkID{1})) != 1 {
		t.Fatal("not dropped")
	}
	<-begun
	if st := s.Stats(); st.MemoryUsed != size || st.Chunks != 0 {
		t.Errorf("%d bytes are used by %d chunks: what is not cleared is not free", st.MemoryUsed, st.Chunks)
	}
	small := transport.ChunkSpec{Slots: 10, HeaderBytes: raid.HeaderSize}
	if err := c.OpenChunk(t.Context(), 2, small); err != nil {
		t.Error(err)
	}
	if err := c.OpenChunk(t.Context(), 3, spec); !errors.Is(err, transport.ErrNoMemory) {
		t.Errorf("a chunk in memory that is not cleared: %v", err)
	}
	opened := make(chan error, 1)
	go func() { opened <- c.OpenChunk(t.Context(), 3, spec) }()
	goOn <- struct{}{}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if p := s.lookup(3).pages; bytes.Count(p, []byte{0}) != len(p) {
		t.Error("it shows what was there before")
	}
}

// Several sessions that open a chunk at once get the same one.
func TestMadeOnce(t *testing.T) {
	s := start(t, Config{Cluster: "c", Memory: 64 << 20})
	spec := transport.ChunkSpec{Slots: 10000, HeaderBytes: raid.HeaderSize}
	got := make(chan *chunk)
	for range 8 {
		go func() {
			c, err := s.openChunk(1, 1, spec)
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
	}
	first := <-got
	for range 7 {
		if c := <-got; c != first {
			t.Error("two chunks of one id")
		}
	}
	if used := s.Stats().MemoryUsed; used != uint64(chunkSize(spec)) {
		t.Errorf("%d bytes used", used)
	}
}

// Memory is cleared in pieces, and all of it.
func TestAllPiecesAreCleared(t *testing.T) {
	s, err := New(Config{ID: "a", Memory: 2*sweepPiece + 3<<20, AllowSwappable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	x := extent{off: 1 << 20, size: 2*sweepPiece + 1<<20}
	for i := range s.arena.mem {
		s.arena.mem[i] = 7
	}
	if !s.clear(t.Context(), x) {
		t.Fatal("not cleared")
	}
	for i, b := range s.arena.mem {
		if in := int64(i) >= x.off && int64(i) < x.off+x.size; in != (b == 0) {
			t.Fatalf("byte %d is %d", i, b)
		}
	}
}
