package server

import (
	"log/slog"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// A server says what a chunk is: its volume and group, and what it takes.
func TestServerSaysWhatAChunkIs(t *testing.T) {
	s, err := New(Config{ID: "s1", Cluster: "c", Memory: 4 << 20, AllowSwappable: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	ss, _, err := s.Open(t.Context(), transport.Hello{Cluster: "c", Volume: 7, Epoch: 1}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer ss.Close()
	if err := ss.OpenChunk(5, transport.ChunkSpec{Slots: 16, HeaderBytes: raid.HeaderSize, Group: 3}); err != nil {
		t.Fatal(err)
	}
	about := s.about([]raid.ChunkID{4, 5})
	if len(about) != 1 {
		t.Fatalf("%+v", about)
	}
	if a := about[0]; a.Chunk != 5 || a.Volume != 7 || a.Group != 3 || a.Bytes != 17*raid.PageSize || a.Made.IsZero() {
		t.Errorf("%+v", a)
	}
}
