package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dmps/raid"
)

// refusal is a volume of which a server refuses a member: group 0, column 1.
func refusal(t *testing.T, geo raid.Geometry, servers int) (s *State, v *Volume, do func(Command) any) {
	t.Helper()
	s = New()
	do = func(c Command) any {
		t.Helper()
		r, err := s.Apply(&c)
		if err == nil {
			err = s.Check()
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i := range servers {
		do(Command{Register: &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: 256 << 20}})
	}
	do(Command{CreateVolume: &CreateVolume{Name: "v", Pages: 3000, Geometry: geo, ChunkSlots: 256}})
	do(Command{Attach: &Attach{Name: "v", Holder: "h"}})
	v, _ = s.VolumeByName("v")
	do(Command{PutReport: &PutReport{Volume: v.ID, Epoch: v.LastLease, Report: Report{State: Degraded}}})
	return s, v, do
}

// A member that was refused stays what it is until another holds everything, also one that
// is being filled, which no drain would move. The server that refused it gets nothing.
func TestRefusedMemberIsPlacedElsewhere(t *testing.T) {
	for _, behind := range []bool{false, true} {
		s, v, do := refusal(t, raid.Geometry{K: 1, M: 1}, 4)
		g := v.Groups[0]
		was := g.Members[1]
		if behind { // as its client has it noted before it writes without that member
			do(Command{Behind: &Behind{Volume: v.ID, Epoch: v.LastLease, Chunks: []raid.ChunkID{was.Chunk}}})
		}
		was = g.Members[1]
		c := &Heal{Limit: 100, Moves: 16, Rebuilding: 1, Refused: []raid.ChunkID{was.Chunk}, Full: []raid.ServerID{was.Server}}
		if !s.WouldHeal(c) {
			t.Fatal("nothing is to be done")
		}
		do(Command{Heal: c})
		if g.Members[1] != was || len(g.Pending) != 1 || g.Pending[0].Member.Server == was.Server || g.Pending[0].Member.State != raid.MemberRebuilding {
			t.Fatalf("behind %v: member %+v was %+v, pending %+v", behind, g.Members[1], was, g.Pending)
		}
		if e := s.Events[len(s.Events)-1]; e.Kind != EventMembersElsewhere || !strings.Contains(e.Text, string(was.Server)) || !strings.Contains(e.Text, "refuse memory") {
			t.Errorf("event %+v", e)
		}
		if s.WouldHeal(c) {
			t.Error("it is placed once more")
		}
		next := g.Pending[0].Member
		do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: []raid.ChunkID{next.Chunk}, Known: v.Version}})
		if m := g.Members[1]; m.Chunk != next.Chunk || m.State != raid.MemberInSync || len(g.Pending) != 0 || m.home() != next.Server {
			t.Fatalf("filled: %+v", g)
		}
		if s.WouldHeal(c) || s.WouldHeal(&Heal{Limit: 100, Moves: 16}) {
			t.Error("it goes back")
		}
	}
}

// A pending member that is refused is given up, and the next one is elsewhere. When its
// member is missing it does not take that one's place.
func TestRefusedPendingMember(t *testing.T) {
	for _, down := range []bool{false, true} {
		_, v, do := refusal(t, raid.Geometry{K: 1, M: 1}, 4)
		g := v.Groups[0]
		was := g.Members[1]
		do(Command{Drain: &Drain{ID: was.Server}})
		do(Command{Heal: &Heal{Limit: 100, Moves: 16}})
		if len(g.Pending) != 1 {
			t.Fatalf("nothing moves: %+v", g)
		}
		pd := g.Pending[0].Member
		if down {
			do(Command{SetServer: &SetServer{ID: was.Server, Incarnation: 1, State: ServerDown}})
		}
		c := &Heal{Limit: 100, Moves: 16, Refused: []raid.ChunkID{pd.Chunk}, Full: []raid.ServerID{pd.Server}}
		do(Command{Heal: c})
		do(Command{Heal: c})
		m := g.Members[1]
		switch {
		case down && (len(g.Pending) != 0 || m.Server == was.Server || m.Server == pd.Server || m.State != raid.MemberRebuilding):
			t.Errorf("its member is down: %+v", g)
		case !down && (m != was || len(g.Pending) != 1 || g.Pending[0].Member.Server == pd.Server):
			t.Errorf("it was %+v on %s: %+v", was, pd.Server, g)
		}
	}
}

// Nothing is placed elsewhere that could not be filled, of which no client can know, or for which
// no other server has room.
func TestRefusedAndLeft(t *testing.T) {
	s, v, do := refusal(t, raid.Geometry{K: 2, M: 1}, 5)
	members := v.Groups[0].Members
	heal := func(full ...raid.ServerID) *Heal {
		return &Heal{Limit: 100, Moves: 16, Refused: []raid.ChunkID{members[1].Chunk, 1 << 40}, Full: full}
	}
	if !s.WouldHeal(heal()) {
		t.Fatal("nothing is to be done")
	}
	var spares []raid.ServerID
	for _, sv := range s.SortedServers() {
		if !slices.ContainsFunc(members, func(m Member) bool { return m.Server == sv.ID }) {
			spares = append(spares, sv.ID)
		}
	}
	if s.WouldHeal(heal(spares...)) {
		t.Error("placed where memory is refused, or said to be stuck")
	}
	do(Command{SetServer: &SetServer{ID: members[0].Server, Incarnation: 1, State: ServerDown}})
	if p := s.planHeal(heal()); slices.ContainsFunc(p.steps, func(st step) bool { return st.refused }) {
		t.Errorf("one of the two others is down: %+v", p.steps)
	}
	do(Command{Detach: &Detach{Volume: v.ID, Epoch: v.LastLease}})
	do(Command{SetServer: &SetServer{ID: members[0].Server, Incarnation: 1, State: ServerUp}})
	v.Unopened = true
	if s.WouldHeal(heal()) {
		t.Error("a volume that nobody has opened")
	}
}
