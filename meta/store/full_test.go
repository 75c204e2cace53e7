package store

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dmps/meta/state"
)

// fullStore is a store whose disk is full while full says so.
func fullStore(t *testing.T, path string) (s *Store, full *atomic.Bool) {
	t.Helper()
	s, full = open(t, path), new(atomic.Bool)
	s.fault = func() error {
		if full.Load() {
			return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
		}
		return nil
	}
	return s, full
}

func awaitFull(t *testing.T, s *Store) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); s.Full() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the store does not wait for room")
		}
	}
}

// A full disk is waited out; what is in memory and not on disk is shown to nobody.
func TestFullDiskIsWaitedOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, full := fullStore(t, path)
	log := history(t)
	half := len(log) / 2
	s.Apply(log[:half])
	before := s.Applied()

	full.Store(true)
	applied := make(chan []Result)
	go func() { applied <- s.Apply(log[half:]) }()
	awaitFull(t, s)
	if err := s.View(func(*state.State) { t.Error("it shows a state that is not on disk") }); !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("view: %v", err)
	}
	if _, err := s.Snapshot(); !errors.Is(err, ErrFull) {
		t.Errorf("snapshot: %v", err)
	}
	if err := s.Err(); err != nil || s.Applied() != before {
		t.Errorf("stopped by %v, at %d instead of %d", err, s.Applied(), before)
	}
	full.Store(false)
	for _, r := range <-applied {
		var refusal *state.Refusal
		if r.Err != nil && !errors.As(r.Err, &refusal) {
			t.Errorf("after there was room: %v", r.Err)
		}
	}
	if err := s.Full(); err != nil {
		t.Errorf("still full: %v", err)
	}

	// The same log, never interrupted, gives the same state and file.
	want := open(t, filepath.Join(t.TempDir(), "state.db"))
	want.Apply(log)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	same(t, again, want)
}

// A node that ends while its disk is full leaves what was on disk, and the rest
// to its log.
func TestGivingUpAFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, full := fullStore(t, path)
	log := history(t)
	half := len(log) / 2
	s.Apply(log[:half])
	full.Store(true)
	applied := make(chan []Result)
	go func() { applied <- s.Apply(log[half:]) }()
	awaitFull(t, s)
	s.GiveUp()
	s.GiveUp()
	for _, r := range <-applied {
		if !errors.Is(r.Err, ErrStopped) {
			t.Errorf("given up: %v", r.Err)
		}
	}
	if err := s.Err(); !IsFull(err) {
		t.Errorf("stopped by %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if again.Applied() != log[half-1].Index {
		t.Errorf("the file ends at %d, want %d", again.Applied(), log[half-1].Index)
	}
	again.Apply(log)
	want := open(t, filepath.Join(t.TempDir(), "state.db"))
	want.Apply(log)
	same(t, again, want)
}

// An error that is not a full disk stops the store, as ever.
func TestFailingDiskStops(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	s.fault = func() error { return syscall.EIO }
	for _, r := range s.Apply(history(t)[:1]) {
		if !errors.Is(r.Err, ErrStopped) || !errors.Is(r.Err, syscall.EIO) {
			t.Error(r.Err)
		}
	}
}
