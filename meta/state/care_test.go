package state

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dmps/raid"
)

// apply applies a command to a state, and checks the state.
type apply func(Command) (any, error)

// must applies a command that is not to be refused, and gives its result.
func (do apply) must(t *testing.T, c Command) any {
	t.Helper()
	v, err := do(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// careCluster is a volume of 4+2 over eight servers that a client has opened once.
func careCluster(t *testing.T) (*State, apply) {
	t.Helper()
	s := New()
	do := apply(func(c Command) (any, error) {
		t.Helper()
		c.Now = 1000
		v, err := s.Apply(&c)
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		return v, err
	})
	for i := range 8 {
		do.must(t, Command{Register: &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: 256 << 20}})
	}
	do.must(t, Command{CreateVolume: &CreateVolume{Name: "v", Pages: 3000, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 256}})
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: 1, Report: Report{State: Healthy}}})
	do.must(t, Command{Detach: &Detach{Volume: 1, Epoch: 1}})
	return s, do
}

func codeOf(err error) Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return 0
}

// A care lease is given only for what needs it, gives way to everybody, and
// takes nothing from anybody.
func TestCareLease(t *testing.T) {
	s, do := careCluster(t)
	care := Command{Attach: &Attach{Name: "v", Holder: "caretaker@s7", Care: true}}
	if _, err := do(care); codeOf(err) != NotFound {
		t.Fatalf("care for a whole volume: %v", err)
	}
	do.must(t, Command{SetServer: &SetServer{ID: "s0", Incarnation: 1, State: ServerDown}})
	if _, err := do(care); codeOf(err) != NotFound {
		t.Fatalf("care before anything was replaced: %v", err)
	}
	do.must(t, Command{Heal: &Heal{Limit: 1000, Moves: 16}})
	v := s.Volumes[1]
	if len(filling(v)) == 0 {
		t.Fatal("members of a detached volume are not replaced")
	}
	at, err := do(care)
	if err != nil || at.(Attached).First || at.(Attached).Epoch != 2 || !v.Lease.Care {
		t.Fatalf("care: %+v, %v, lease %+v", at, err, v.Lease)
	}
	// Another caretaker waits, a user does not.
	other := Command{Attach: &Attach{Name: "v", Holder: "caretaker@s6", Care: true}}
	if _, err := do(other); codeOf(err) != InUse {
		t.Fatalf("a second caretaker: %v", err)
	}
	other.Attach.Expired = 2
	if at, err := do(other); err != nil || at.(Attached).Epoch != 3 {
		t.Fatalf("a second caretaker, when the first one's lease had run out: %v", err)
	}
	if _, err := do(Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 2, Chunks: filling(v)}}); codeOf(err) != Fenced {
		t.Fatalf("the caretaker that was replaced reports: %v", err)
	}
	if at, err := do(Command{Attach: &Attach{Name: "v", Holder: "user"}}); err != nil || at.(Attached).Epoch != 4 || v.Lease.Care {
		t.Fatalf("a user attaches a volume under care: %v", err)
	}
	for _, expired := range []raid.Epoch{0, 3} {
		if _, err := do(Command{Attach: &Attach{Name: "v", Holder: "caretaker@s7", Care: true, Takeover: true, Expired: expired}}); codeOf(err) != InUse {
			t.Fatalf("care for an attached volume: %v", err)
		}
	}
	// The user's client has crashed: its lease runs out.
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "caretaker@s7", Care: true, Expired: 4}})
	do.must(t, Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 5, Chunks: filling(v)}})
	do.must(t, Command{Detach: &Detach{Volume: 1, Epoch: 5}})
	if why := s.NoCare(v); why == "" {
		t.Fatal("all is filled, and it needs care")
	}
	if _, err := do(Command{DeleteVolume: &DeleteVolume{Name: "v"}}); err != nil {
		t.Fatalf("deleting a volume under care without force: %v", err)
	}
	var kinds []string
	for _, e := range s.Events {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Contains(kinds, EventCareBegan) {
		t.Errorf("no event tells of care: %v", kinds)
	}
}

// What has lost more than M members of a group is left alone.
func TestNoCareForWhatIsGone(t *testing.T) {
	s, do := careCluster(t)
	for i := range 3 {
		id := raid.ServerID(fmt.Sprint("s", i))
		do.must(t, Command{Register: &Register{ID: id, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
		do.must(t, Command{Heal: &Heal{Limit: 1000, Moves: 16}})
	}
	if _, err := do(Command{Attach: &Attach{Name: "v", Holder: "caretaker@s7", Care: true}}); codeOf(err) != NotFound || s.Volumes[1].Lease != nil {
		t.Fatalf("care for a volume with groups of which too little is left: %v", err)
	}
}

// TestCareLeases lets users and caretakers come and go in any order. Epochs only
// grow, a user never loses the volume to a caretaker while his lease runs, never
// waits for one, and care is begun only for what needs it.
func TestCareLeases(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &healer{t: t, s: New(), lives: map[raid.ServerID]raid.Incarnation{}}
		for i := range 8 {
			h.register(raid.ServerID(fmt.Sprintf("s%d", i)))
		}
		h.do(Command{CreateVolume: &CreateVolume{Name: "v", Pages: 3000, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 256}})
		v := h.s.Volumes[1]
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			before := Lease{}
			if v.Lease != nil {
				before = *v.Lease
			}
			last := v.Epoch
			needs := h.s.NoCare(v) == ""
			var expired raid.Epoch
			if rapid.Bool().Draw(t, "expired") {
				expired = before.Epoch
			}
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 7:
				if v.Lease != nil {
					h.do(Command{PutReport: &PutReport{Volume: 1, Epoch: v.Lease.Epoch, Report: Report{State: Healthy}}})
				}
			case 0, 1: // a user
				name := rapid.SampledFrom([]string{"u1", "u2"}).Draw(t, "user")
				c := Command{Attach: &Attach{Name: "v", Holder: name, Expired: expired, Takeover: rapid.Bool().Draw(t, "takeover")}, Now: 1}
				_, err := h.s.Apply(&c)
				free := v.Lease == nil || before.Epoch == 0 || before.Care || before.Holder == name || expired != 0 || c.Attach.Takeover
				if (err == nil) != free {
					t.Fatalf("%s attaches, the lease is %+v, expired %v: %v", name, before, expired, err)
				}
				if err == nil && (v.Lease.Care || v.Lease.Epoch <= last) {
					t.Fatalf("%s got %+v after epoch %d", name, v.Lease, last)
				}
			case 2, 3: // a caretaker
				name := rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "caretaker")
				c := Command{Attach: &Attach{Name: "v", Holder: name, Care: true, Expired: expired}, Now: 1}
				_, err := h.s.Apply(&c)
				free := before.Epoch == 0 || expired != 0 || before.Care && before.Holder == name
				if (err == nil) != (free && needs) {
					t.Fatalf("%s would care, the lease is %+v, expired %v, needed %v: %v", name, before, expired, needs, err)
				}
				if err == nil && (!v.Lease.Care || v.Lease.Epoch <= last) {
					t.Fatalf("%s got %+v after epoch %d", name, v.Lease, last)
				}
			case 4:
				if v.Lease != nil {
					h.do(Command{Detach: &Detach{Volume: 1, Epoch: v.Lease.Epoch}})
				}
			case 5:
				id := raid.ServerID(fmt.Sprintf("s%d", rapid.IntRange(0, 7).Draw(t, "server")))
				h.set(id, rapid.SampledFrom([]ServerState{ServerUp, ServerSuspect, ServerDown}).Draw(t, "state"))
				h.do(Command{Heal: &Heal{Limit: 1000, Moves: 9}})
			case 6:
				if v.Lease != nil {
					h.do(Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: v.Lease.Epoch, Chunks: filling(v)}})
				}
			}
			if err := h.s.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A client that died may not have come to tell that members miss rows: its volume is
// cared for once, although its last report was of a healthy one. So is the volume of a
// caretaker that died.
func TestCareAfterACrash(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	care := func(holder string) Command {
		c := Command{Attach: &Attach{Name: "v", Holder: holder, Care: true}}
		if v.Lease != nil {
			c.Attach.Expired = v.Lease.Epoch
		}
		return c
	}
	if why := s.NoCare(v); why == "" {
		t.Fatal("a healthy volume whose client gave the lease back needs care")
	}
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: v.LastLease, Report: Report{State: Healthy, RedundancyLeft: 2}}})
	do.must(t, care("caretaker@s1")) // the user's lease has run out
	do.must(t, care("caretaker@s2")) // and so has the caretaker's
	do.must(t, Command{Detach: &Detach{Volume: 1, Epoch: v.LastLease}})
	if _, err := do(care("caretaker@s1")); codeOf(err) != NotFound {
		t.Fatalf("it was cared for, and is again: %v", err)
	}
}
