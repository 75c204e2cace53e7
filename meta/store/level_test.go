package store

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"dmps/meta/level"
	"dmps/meta/state"
)

func entry(t *testing.T, index uint64, c state.Command) Entry {
	t.Helper()
	b, err := c.Encode(level.Highest + 1)
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Index: index, Data: b}
}

// A build that is too old stops at what it does not know, in the log, in its file, or
// in a snapshot, and has changed nothing: a newer one goes on from there.
func TestTooOld(t *testing.T) {
	next := level.Build{Version: "next", Lowest: 1, Highest: level.Highest + 1}
	tooOld := func(err error) {
		t.Helper()
		var unknown *level.UnknownError
		if !errors.As(err, &unknown) || unknown.Since != "next" {
			t.Errorf("a build that is too old: %v", err)
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	s := open(t, path)
	s.Apply([]Entry{entry(t, 1, state.Command{Init: &state.Init{Cluster: "c"}})})
	raise := []Entry{
		entry(t, 2, state.Command{Drain: &state.Drain{ID: "none"}}),
		entry(t, 3, state.Command{Raise: &state.Raise{To: level.Highest + 1, By: "next"}}),
	}
	tooOld(s.Apply(raise)[1].Err)
	tooOld(s.Err())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	newer, err := Open(path, next)
	if err != nil {
		t.Fatal(err)
	}
	if newer.Applied() != 1 || newer.Level() != level.Highest {
		t.Errorf("the older build left command %d, level %d", newer.Applied(), newer.Level())
	}
	if r := newer.Apply(raise); r[1].Err != nil || newer.Level() != level.Highest+1 {
		t.Errorf("the newer build: %v, level %d", r[1].Err, newer.Level())
	}
	var backup bytes.Buffer
	snap, err := newer.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.WriteTo(&backup); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snap.Release(), newer.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path, level.This("old"))
	tooOld(err)

	_, err = Check(bytes.NewReader(backup.Bytes()), filepath.Join(t.TempDir(), "c"), level.This("old"), func(*state.State) {})
	tooOld(err)
	other := open(t, filepath.Join(t.TempDir(), "o"))
	tooOld(other.Restore(bytes.NewReader(backup.Bytes())))
	tooOld(other.Err())
}

// A record with a field that this build does not know is not read without it.
func TestUnknownFieldOfRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := open(t, path)
	s.Apply(history(t))
	if err := s.mu.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(serversBucket).Put([]byte("s9"), []byte(`{"id":"s9","incarnation":1,"colour":"red"}`))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(path, level.This("")); err == nil {
		t.Error("it was read", s.Close())
	}
}
