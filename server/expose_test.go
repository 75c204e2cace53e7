package server

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// What readers alone keep by their one-sided reads is wanted back by ending their
// sessions, and given to others only when the medium has closed them.
func TestExposeToReaders(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	open := func(mode transport.Mode) (transport.Session, *atomic.Pointer[error]) {
		stopped := new(atomic.Pointer[error])
		ss, _, err := s.Open(context.Background(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1, Mode: mode}, func(cause error) { stopped.Store(&cause) })
		if err != nil {
			t.Fatal(err)
		}
		return ss, stopped
	}
	owner, _ := open(transport.ModeOwner)
	for _, id := range []uint64{5, 6} {
		if err := owner.OpenChunk(id, transport.ChunkSpec{Slots: 8, HeaderBytes: raid.HeaderSize}); err != nil {
			t.Fatal(err)
		}
	}
	x, err := owner.(transport.Exposer).Expose(5)
	if err != nil || x.ReadOnly {
		t.Fatalf("an owner's chunk: %+v, %v", x.ReadOnly, err)
	}
	one, oneStopped := open(transport.ModeReader)
	two, twoStopped := open(transport.ModeReader)
	for range 2 { // twice is once
		x, err := one.(transport.Exposer).Expose(5)
		if err != nil || !x.ReadOnly || len(x.Pages) != 8*raid.PageSize {
			t.Fatalf("a reader's chunk: read only %v, %d bytes, %v", x.ReadOnly, len(x.Pages), err)
		}
	}
	if _, err := two.(transport.Exposer).Expose(6); err != nil {
		t.Fatal(err)
	}
	if _, err := one.(transport.Exposer).Expose(99); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("a chunk that is not there: %v", err)
	}
	drop := func(want int) {
		t.Helper()
		if got := s.Drop([]raid.ChunkID{5}); len(got) != want {
			t.Fatalf("dropped %v", got)
		}
	}
	drop(0)
	if oneStopped.Load() != nil {
		t.Fatal("a reader was stopped for a chunk that its owner has open")
	}
	if err := owner.OpenChunk(5, transport.ChunkSpec{Release: true}); err != nil {
		t.Fatal(err)
	}
	drop(0)
	if p := oneStopped.Load(); p == nil || !errors.Is(*p, transport.ErrClosed) {
		t.Fatal("the reader was not stopped")
	}
	if _, err := one.(transport.Exposer).Expose(6); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a stopped session exposes: %v", err)
	}
	drop(0)
	one.Close()
	drop(1)
	if twoStopped.Load() != nil {
		t.Error("the reader of another chunk was stopped")
	}
	// A release is as good as an end.
	if err := two.OpenChunk(6, transport.ChunkSpec{Release: true}); err != nil {
		t.Fatal(err)
	}
	owner.Close()
	if got := s.Drop([]raid.ChunkID{6}); len(got) != 1 || twoStopped.Load() != nil {
		t.Errorf("dropped %v, stopped %v", got, twoStopped.Load() != nil)
	}
	two.Close()
}
