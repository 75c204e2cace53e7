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
			do.must(t, c)
		}
		w, _ := s.VolumeByName("w")
		if got := len(filling(w)) > 0; got != leased {
			t.Errorf("with a lease: %v; members count as being filled: %v", leased, got)
		}
	}
}

// Pages that are gone, nobody knows which, are remembered over the ends of leases,
// and told to the next client, until a client that was told says otherwise, or
// somebody accepts the loss. What a client says that has not heard of that yet does
// not bring them back.
func TestUnknownPages(t *testing.T) {
	s, do := careCluster(t) // checks the state after each command
	v := s.Volumes[1]
	report := func(pages, known uint64) {
		t.Helper()
		do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: v.LastLease, Known: known, Report: Report{State: Healthy, RedundancyLeft: 2, Unknown: pages}}})
	}
	unknown := func(pages uint64) {
		t.Helper()
		h := s.Health(v, nil)
		if (h.State == Failed) != (pages > 0) || v.Unknown() != pages || (v.UnknownAt != 0) != (pages > 0) || s.Layout(v, 9, false).Unknown != pages {
			t.Fatalf("%d pages unknown, want %d; health %+v, since %d", v.Unknown(), pages, h, v.UnknownAt)
		}
	}
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	report(7, 0)
	unknown(7)
	do.must(t, Command{Detach: &Detach{Volume: 1, Epoch: v.LastLease}})
	unknown(7)
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	unknown(7)
	report(7, v.Version)
	report(3, v.Version)
	unknown(3)
	before := v.Version
	if n := do.must(t, Command{AcceptLoss: &AcceptLoss{Name: "v"}}); n != uint64(3) || v.Version <= before {
		t.Fatalf("%v pages accepted, version %d after %d", n, v.Version, before)
	}
	unknown(0)
	report(3, before) // it has not heard
	unknown(0)
	report(3, 0) // nor has who does not say what it knows
	unknown(0)
	report(0, v.Version)
	unknown(0)
	report(5, v.Version) // another loss
	unknown(5)
	report(0, v.Version)
	unknown(0)
}

// Epochs end: no lease is given beyond the last one, caretakers leave the last ones to
// clients, and events warn before.
func TestEpochsEnd(t *testing.T) {
	s, do := careCluster(t) // checks the state after each command
	v := s.Volumes[1]
	for _, c := range []Command{ // it needs care
		{Register: &Register{ID: v.Groups[0].Members[0].Server, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}},
		{Heal: &Heal{Limit: 1000}},
	} {
		do.must(t, c)
	}
	attach := func(care bool) error {
		t.Helper()
		_, err := do(Command{Attach: &Attach{Name: "v", Holder: "h", Care: care, Takeover: !care}})
		if v.Lease != nil && v.Lease.Epoch > raid.MaxEpoch {
			t.Fatalf("a lease of epoch %d", v.Lease.Epoch)
		}
		return err
	}
	v.Epoch, v.LastLease = raid.MaxEpoch-userEpochs-1, raid.MaxEpoch-userEpochs-1
	if err := attach(true); err != nil {
		t.Fatalf("a caretaker is refused before the last epochs: %v", err)
	}
	if err := attach(true); codeOf(err) != NotFound || s.NoCare(v) == "" {
		t.Fatalf("a caretaker gets one of the last epochs: %v", err)
	}
	if err := attach(false); err != nil {
		t.Fatal(err)
	}
	if last := s.Events[len(s.Events)-1]; last.Kind != EventEpochsLow || last.Count != userEpochs {
		t.Errorf("no event warns: %+v", last)
	}
	v.Lease, v.Epoch, v.LastLease = nil, raid.MaxEpoch-1, raid.MaxEpoch-1
	if err := attach(false); err != nil || v.Lease.Epoch != raid.MaxEpoch {
		t.Fatalf("the last epoch: %v, %+v", err, v.Lease)
	}
	for _, care := range []bool{false, true} {
		if err := attach(care); codeOf(err) != Invalid {
			t.Errorf("beyond the last epoch, care %v: %v", care, err)
		}
	}
	s.Recover(1, "in a test") // leaves epochs behind
	if err := attach(false); codeOf(err) != Invalid {
		t.Errorf("beyond the last epoch of a recovered state: %v", err)
	}
}
