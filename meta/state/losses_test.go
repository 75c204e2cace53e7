package state

import (
	"slices"
	"testing"

	"dmps/raid"
)

// What a volume loses with a server is counted by what is there: servers that are
// away hold nothing, and members that are up may miss rows.
func TestLossesCountWhatIsThere(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	members := v.Groups[0].Members // of 4+2
	id := members[0].Server
	check := func(what string, left int, lost, away bool) {
		t.Helper()
		l := s.Losses(id)
		if len(l) != 1 || l[0].RedundancyLeft != left || (l[0].GroupsLost > 0) != lost || (l[0].GroupsAway > 0) != away {
			t.Errorf("%s: %+v", what, l)
		}
	}
	check("all are up", 1, false, false)
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: v.LastLease, Report: Report{State: Degraded, DegradedRows: 7}}})
	check("members miss rows", 0, false, false)
	do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: v.LastLease, Report: Report{State: Healthy, RedundancyLeft: 2}}})
	do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: v.LastLease, Report: Report{State: Degraded, RedundancyLeft: 1, Suspect: []raid.ServerID{members[1].Server}}}})
	check("the client has no answer from one", 0, false, false)
	do.must(t, Command{PutReport: &PutReport{Volume: 1, Epoch: v.LastLease, Report: Report{State: Healthy, RedundancyLeft: 2}}})
	away := func(m Member, st ServerState) {
		do.must(t, Command{SetServer: &SetServer{ID: m.Server, Incarnation: 1, State: st}})
	}
	away(members[1], ServerSuspect)
	check("one is suspect", 0, false, false)
	away(members[2], ServerDown)
	check("one more is down", -1, false, true)
	do.must(t, Command{Register: &Register{ID: members[3].Server, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
	do.must(t, Command{Register: &Register{ID: members[4].Server, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
	check("two are empty", -3, true, true)
}

// Why members are stuck is not told any more once it is not so, although healing
// still waits for servers that return last; a lack of room is for as long as members
// are to be replaced.
func TestStuckNow(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	set := func(m Member, st ServerState) {
		t.Helper()
		do.must(t, Command{SetServer: &SetServer{ID: m.Server, Incarnation: m.Incarnation, State: st}})
	}
	heal := func() { do.must(t, Command{Heal: &Heal{Limit: 1000, Moves: 16}}) }
	members := v.Groups[0].Members
	for _, m := range members[:3] {
		set(m, ServerDown)
	}
	heal()
	if st := s.StuckNow(v); st == nil || *st != *v.Stuck {
		t.Fatalf("three of six are down: %+v, planned: %+v", st, v.Stuck)
	}
	for _, m := range members[:3] {
		set(m, ServerUp)
	}
	if st := s.StuckNow(v); st != nil || v.Stuck == nil {
		t.Fatalf("all are back, and no plan was made since: %+v, planned: %+v", st, v.Stuck)
	}
	heal()

	for _, sv := range s.SortedServers() { // nobody else has room
		sv.MemoryTotal = sv.Reserved
	}
	gone := members[0]
	set(gone, ServerDown)
	heal()
	if st := s.StuckNow(v); st == nil || !st.Room {
		t.Fatalf("no room: %+v", st)
	}
	set(gone, ServerUp)
	if st := s.StuckNow(v); st != nil {
		t.Fatalf("it is back: %+v", st)
	}
	heal()
	do.must(t, Command{Drain: &Drain{ID: gone.Server}})
	heal()
	if st := s.StuckNow(v); st == nil || !st.Room {
		t.Fatalf("drained without room elsewhere: %+v", st)
	}
	do.must(t, Command{Drain: &Drain{ID: gone.Server, Off: true}})
	if st := s.StuckNow(v); st != nil {
		t.Fatalf("it is not drained any more: %+v", st)
	}
}

// A server that was removed while it was to be drained was not drained.
func TestRemovedIsNotDrained(t *testing.T) {
	s, do := careCluster(t)
	do.must(t, Command{Drain: &Drain{ID: "s0"}})
	do.must(t, Command{SetServer: &SetServer{ID: "s0", Incarnation: 1, State: ServerDown}})
	if r := do.must(t, Command{RemoveServer: &RemoveServer{ID: "s0", Force: true}}).(Removed); r.Members == 0 {
		t.Fatalf("%+v", r)
	}
	if slices.ContainsFunc(s.Events, func(e Event) bool { return e.Kind == EventServerDrained }) {
		t.Errorf("%+v", s.Events)
	}
}

// Nor was one that lost what it held because it was started again, and one that holds what
// the state does not know, until that is gone.
func TestDrainedHoldsNothing(t *testing.T) {
	s, do := careCluster(t)
	drained := func() (n int) {
		for _, e := range s.Events {
			if e.Kind == EventServerDrained {
				n++
			}
		}
		return n
	}
	do.must(t, Command{Drain: &Drain{ID: "s0"}})
	do.must(t, Command{SetServer: &SetServer{ID: "s0", Incarnation: 1, State: ServerDown}})
	do.must(t, Command{Register: &Register{ID: "s0", Incarnation: 2, Addr: "a", MemoryTotal: 1 << 30}})
	if s.lost == 0 || !s.Servers["s0"].Draining || drained() > 0 {
		t.Errorf("%d members lost: %+v", s.lost, s.Events)
	}
	do.must(t, Command{Drain: &Drain{ID: "s0", Off: true}})
	do.must(t, Command{Unknown: &Unknown{ID: "s0", Incarnation: 2, Chunks: 2}})
	do.must(t, Command{Drain: &Drain{ID: "s0"}})
	do.must(t, Command{Unknown: &Unknown{ID: "s0", Incarnation: 2, Chunks: 1}})
	if drained() > 0 {
		t.Errorf("it holds an unknown chunk: %+v", s.Events)
	}
	do.must(t, Command{Unknown: &Unknown{ID: "s0", Incarnation: 2}})
	if drained() != 1 {
		t.Errorf("it is told %d times", drained())
	}
}
