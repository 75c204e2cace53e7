package server

import (
	"errors"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// What the system did not give again is tried again, also where nobody watches for a
// shortage: else a server would lend less for ever.
func TestRefusedMemoryIsTriedAgainUnwatched(t *testing.T) {
	s, _ := withheld(t)
	for until := time.Now().Add(30 * time.Second); s.Stats().MemoryTotal != 16*raid.PageSize; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d bytes are lent", s.Stats().MemoryTotal)
		}
	}
}

// withheld is a server of 16 pages, of which half could not be had again when it gathered
// two dropped chunks for a larger one.
func withheld(t *testing.T) (s *Server, open func(id raid.ChunkID, slots uint32) error) {
	t.Helper()
	s = start(t, Config{Cluster: "c", Memory: 16 * raid.PageSize, AllowSwappable: true})
	if !s.arena.locked {
		t.Skip("memory cannot be locked here")
	}
	open = func(id raid.ChunkID, slots uint32) error {
		_, err := s.openChunk(id, 1, transport.ChunkSpec{Slots: slots, HeaderBytes: raid.HeaderSize})
		return err
	}
	for id := range raid.ChunkID(4) {
		if err := open(id+1, 3); err != nil {
			t.Fatal(err)
		}
	}
	s.Drop([]raid.ChunkID{1, 3})
	swept(t, s)
	within(t, 8*raid.PageSize, func() {
		if err := open(5, 7); !errors.Is(err, transport.ErrNoMemory) {
			t.Error(err)
		}
	})
	return s, open
}
