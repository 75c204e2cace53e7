package state

import (
	"testing"

	"dmps/raid"
)

// The first client of a volume is the first that says that it has opened it, not
// the first that asked for it: what came before may have made no chunk at all.
func TestFirstIsWhoOpenedIt(t *testing.T) {
	s := cluster(t, 6, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 4, M: 2}})
	attach := func() Attached {
		t.Helper()
		at, err := s.Apply(&Command{Attach: &Attach{Name: "v", Holder: "h"}})
		if err != nil {
			t.Fatal(err)
		}
		return at.(Attached)
	}
	report := func(e raid.Epoch) error {
		_, err := s.Apply(&Command{PutReport: &PutReport{Volume: v.ID, Epoch: e, Report: Report{State: Healthy}}})
		return err
	}
	old := attach()
	if !old.First {
		t.Fatal("the first attach is not the first")
	}
	must(t, s, &Command{Detach: &Detach{Volume: v.ID, Epoch: old.Epoch}}) // it could not be opened
	at := attach()
	if !at.First {
		t.Fatal("a client follows that never opened the volume, and is not the first")
	}
	if report(old.Epoch) == nil || !v.Unopened {
		t.Fatal("a client that was replaced opened the volume")
	}
	if at = attach(); !at.First { // killed before it had opened it, and started again
		t.Fatal("after a client that was killed")
	}
	if err := report(at.Epoch); err != nil {
		t.Fatal(err)
	}
	if at = attach(); at.First {
		t.Fatal("it was opened, and the next client is the first again")
	}
}

// While the first client may be opening a volume, nobody's absence is made up for
// by members that count as in sync: it would not hear of them before it writes.
func TestReplacedWhileFirstOpens(t *testing.T) {
	for _, leased := range []bool{false, true} {
		s, do := careCluster(t)
		steps := []Command{{CreateVolume: &CreateVolume{Name: "w", Pages: 3000, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 256}}}
		if leased {
			steps = append(steps, Command{Attach: &Attach{Name: "w", Holder: "h"}})
		}
		for _, c := range append(steps, Command{SetServer: &SetServer{ID: "s1", Incarnation: 1, State: ServerDown}}, Command{Heal: &Heal{Limit: 1000}}) {
			if _, err := do(c); err != nil {
				t.Fatal(err)
			}
		}
		w, _ := s.VolumeByName("w")
		if got := len(filling(w)) > 0; got != leased {
			t.Errorf("with a lease: %v; members count as being filled: %v", leased, got)
		}
	}
}
