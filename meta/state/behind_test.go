package state

import (
	"testing"

	"dmps/raid"
)

// A member that falls behind is no source any more until it is said to hold
// everything, by somebody who knew that it fell behind.
func TestMembersFallBehind(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	known := v.Version
	chunk := v.Groups[0].Members[1].Chunk
	if _, err := do(Command{Behind: &Behind{Volume: 1, Epoch: 1, Chunks: []raid.ChunkID{chunk}}}); codeOf(err) != Fenced {
		t.Fatalf("noted for a client that was replaced: %v", err)
	}
	do.must(t, Command{Behind: &Behind{Volume: 1, Epoch: 2, Chunks: []raid.ChunkID{chunk, 1 << 40}}})
	m := &v.Groups[0].Members[1]
	if m.State != raid.MemberRebuilding || m.Chunk != chunk || v.Version == known || v.Groups[0].Since == 0 {
		t.Fatalf("after it fell behind: %+v, version %d after %d, since %d", *m, v.Version, known, v.Groups[0].Since)
	}
	// What was said before, and comes late, does not count.
	for _, c := range []struct {
		known uint64
		want  raid.MemberState
	}{{known, raid.MemberRebuilding}, {0, raid.MemberRebuilding}, {v.Version, raid.MemberInSync}} {
		do.must(t, Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 2, Chunks: []raid.ChunkID{chunk}, Known: c.known}})
		if m.State != c.want {
			t.Fatalf("said to be rebuilt by one who knew version %d: %v", c.known, m.State)
		}
	}
}

// A member that falls behind while it is moved: the new one makes the group whole.
func TestBehindWhileMoving(t *testing.T) {
	s, do := careCluster(t) // checks the state after each command
	v := s.Volumes[1]
	group := v.Groups[0]
	old := group.Members[1]
	for _, c := range []Command{
		{Attach: &Attach{Name: "v", Holder: "user"}},
		{Drain: &Drain{ID: old.Server}},
		{Heal: &Heal{Limit: 100, Moves: 100, Rebuilding: 100}},
		{Behind: &Behind{Volume: 1, Epoch: 2, Chunks: []raid.ChunkID{old.Chunk}}},
	} {
		do.must(t, c)
	}
	i, ok := group.pending(1)
	if !ok || group.Since == 0 {
		t.Fatalf("moves: %v, degraded since %d", ok, group.Since)
	}
	next := group.Pending[i].Member.Chunk
	do.must(t, Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 2, Chunks: []raid.ChunkID{next}, Known: v.Version}})
	if m := group.Members[1]; m.Chunk != next || m.State != raid.MemberInSync || group.Since != 0 {
		t.Fatalf("after the move: %+v, degraded since %d", m, group.Since)
	}
}

// Nobody falls behind members that are lost: no group is left without K that hold
// everything because the client has not heard of that.
func TestNobodyFallsBehindTheLost(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "user"}})
	group := v.Groups[0]
	var chunks []raid.ChunkID
	for c := v.Geometry.K; c < v.Geometry.Members(); c++ {
		chunks = append(chunks, group.Members[c].Chunk)
	}
	do.must(t, Command{Register: &Register{ID: group.Members[0].Server, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
	known := v.Version
	do.must(t, Command{Behind: &Behind{Volume: 1, Epoch: 2, Chunks: chunks}})
	for _, m := range group.Members[v.Geometry.K:] {
		if m.State != raid.MemberInSync {
			t.Errorf("%+v: the group has too few others", m)
		}
	}
	if v.Version == known {
		t.Error("the client is not told")
	}
}
