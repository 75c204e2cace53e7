package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dmps/meta/level"
	"dmps/meta/state"
	"dmps/raid"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, level.This(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// history is a log of commands, refused ones among them, in which records are
// made, changed and removed.
func history(t testing.TB) []Entry {
	t.Helper()
	var out []Entry
	add := func(c state.Command) {
		b, err := c.Encode(level.Highest)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Entry{Index: uint64(len(out)) + 1, Data: b})
	}
	register := func(i, life int) {
		add(state.Command{Register: &state.Register{
			ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: raid.Incarnation(life), Addr: "a", MemoryTotal: 1 << 30,
		}})
	}
	create := func(name string) {
		add(state.Command{CreateVolume: &state.CreateVolume{Name: name, Pages: 3000, Geometry: raid.Geometry{K: 2, M: 1}, Seed: 7}})
	}
	add(state.Command{Init: &state.Init{Cluster: "c"}})
	add(state.Command{PutNode: &state.Node{ID: "n-1", Name: "n"}})
	for i := range 5 {
		register(i, 1)
	}
	create("v")
	create("w")
	create("v") // refused
	add(state.Command{Attach: &state.Attach{Name: "v", Holder: "h"}})
	register(2, 2)
	add(state.Command{DeleteVolume: &state.DeleteVolume{Name: "w"}})
	out = append(out, Entry{Index: uint64(len(out)) + 1}) // Raft's own
	add(state.Command{PutReport: &state.PutReport{Volume: 1, Epoch: 1, Report: state.Report{State: state.Degraded}}})
	add(state.Command{RemoveNode: &state.RemoveNode{ID: "n-1"}})
	add(state.Command{Now: 5, SetServer: &state.SetServer{ID: "s3", Incarnation: 1, State: state.ServerDown}})
	add(state.Command{Now: 6, Drain: &state.Drain{ID: "s4"}})
	add(state.Command{Now: 7, Rebalance: &state.Rebalance{Threshold: 9}})
	add(state.Command{Now: 8, Heal: &state.Heal{Seed: 1, Limit: 5, Moves: 2}})
	add(state.Command{Now: 9, Heal: &state.Heal{Seed: 2, Limit: 100, Moves: 2}})
	add(state.Command{Now: 9, Drain: &state.Drain{ID: "s4", Off: true}})
	return out
}

func same(t testing.TB, a, b *Store) {
	t.Helper()
	opts := cmp.Options{cmp.AllowUnexported(state.State{}), cmpopts.IgnoreFields(state.State{}, "touched", "index"), cmpopts.EquateEmpty()}
	if d := cmp.Diff(a.mu.state, b.mu.state, opts); d != "" || a.Applied() != b.Applied() {
		t.Errorf("states differ at %d and %d:\n%s", a.Applied(), b.Applied(), d)
	}
}

// A crash at any place of the history, and a log that is replayed from any
// place before it, in batches of any size, give the state of an undisturbed
// run. What is read back from disk is what was in memory.
func TestReplay(t *testing.T) {
	log := history(t)
	whole := open(t, filepath.Join(t.TempDir(), "state.db"))
	whole.Apply(log)
	folder := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		path := filepath.Join(folder, fmt.Sprint(runs))
		for at := 0; at < len(log); {
			s, err := Open(path, level.This(""))
			if err != nil {
				rt.Fatal(err)
			}
			from := int(s.Applied())
			if from != at {
				rt.Fatalf("applied %d, on disk %d", at, from)
			}
			from -= rapid.IntRange(0, from).Draw(rt, "replayed")
			for range rapid.IntRange(1, 3).Draw(rt, "batches") {
				to := min(len(log), from+rapid.IntRange(1, 8).Draw(rt, "batch"))
				for i, r := range s.Apply(log[from:to]) {
					if r.Skipped != (from+i < at) {
						rt.Fatalf("entry %d: skipped %v, applied were %d", from+i+1, r.Skipped, at)
					}
				}
				from, at = to, max(at, to)
			}
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		s, err := Open(path, level.This(""))
		if err != nil {
			rt.Fatal(err)
		}
		same(t, whole, s)
		if err := errors.Join(s.Close(), os.Remove(path)); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestSnapshot(t *testing.T) {
	log := history(t)
	a := open(t, filepath.Join(t.TempDir(), "a"))
	a.Apply(log[:9])
	snap, err := a.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	a.Apply(log[9:]) // after the snapshot was taken, before it is written
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := snap.Release(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "b")
	other := open(t, path)
	other.Apply(log[:3])
	if err := other.Restore(bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	if other.Applied() != 9 {
		t.Errorf("restored to %d, not 9", other.Applied())
	}
	other.Apply(log[9:])
	same(t, a, other)
	for name, data := range map[string][]byte{
		"half": b.Bytes()[:b.Len()/2], "empty": {}, "garbage": bytes.Repeat([]byte("garbage "), 1<<13),
	} {
		if err := other.Restore(bytes.NewReader(data)); err == nil {
			t.Errorf("%s was restored", name)
		}
		same(t, a, other)
		if _, err := os.Stat(path + ".restore"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: left over: %v", name, err)
		}
	}
}

func TestStopsAtTheFirstFailure(t *testing.T) {
	log := history(t)
	for name, bad := range map[string][]byte{
		"a command of a newer version": []byte(`{"teleport":{}}`), "garbage": {1, 2, 3},
	} {
		s := open(t, filepath.Join(t.TempDir(), "s"))
		s.Apply(log[:3])
		r := s.Apply([]Entry{{Index: 4, Data: log[3].Data}, {Index: 5, Data: bad}})
		if !errors.Is(r[0].Err, ErrStopped) || !errors.Is(r[1].Err, ErrStopped) {
			t.Errorf("%s: %+v", name, r)
		}
		if s.Applied() != 3 {
			t.Errorf("%s: applied %d, on disk 3", name, s.Applied())
		}
		if r := s.Apply(log[3:4]); !errors.Is(r[0].Err, ErrStopped) {
			t.Errorf("%s: goes on: %+v", name, r)
		}
		if _, err := s.Snapshot(); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: snapshot: %v", name, err)
		}
		if err := s.View(func(*state.State) {}); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: view: %v", name, err)
		}
	}
}

func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<14), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, level.This("")); err == nil {
		t.Error("a damaged file was opened")
	}
}
