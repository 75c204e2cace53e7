package state

import (
	"testing"

	"dmps/raid"
)

// Who takes a member's place is in sync only when it holds everything: a
// replacement, and a pending member whose elder is gone.
func TestNewMembersAreFilledFirst(t *testing.T) {
	heal := Command{Heal: &Heal{Limit: 100, Moves: 100, Rebuilding: 100}}
	for name, c := range map[string]struct {
		moving bool
		gone   func(id raid.ServerID) Command
	}{
		"replaced": {gone: func(id raid.ServerID) Command {
			return Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerDown}}
		}},
		"moving when its server is down": {moving: true, gone: func(id raid.ServerID) Command {
			return Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerDown}}
		}},
		"moving when its server restarts": {moving: true, gone: func(id raid.ServerID) Command {
			return Command{Register: &Register{ID: id, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, do := careCluster(t)
			group := s.Volumes[1].Groups[0]
			old := group.Members[1]
			var all []Command
			if c.moving {
				all = append(all, Command{Drain: &Drain{ID: old.Server}}, heal)
			}
			for _, cmd := range append(all, c.gone(old.Server), heal) {
				do.must(t, cmd)
			}
			m := group.Members[1]
			if m.Chunk == old.Chunk || m.State != raid.MemberRebuilding || group.Since == 0 {
				t.Errorf("%+v after %+v, degraded since %d", m, old, group.Since)
			}
		})
	}
}

// A client has a say in its own volume, and only while the lease is its own.
func TestOthersHaveNoSay(t *testing.T) {
	s, do := careCluster(t)
	do.must(t, Command{CreateVolume: &CreateVolume{Name: "w", Pages: 3000, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 256}})
	for _, c := range []Command{
		{Attach: &Attach{Name: "v", Holder: "user"}},
		{Attach: &Attach{Name: "w", Holder: "user"}},
	} {
		do.must(t, c)
	}
	v := s.Volumes[1]
	w, ok := s.VolumeByName("w")
	if !ok {
		t.Fatal("the volume is not there")
	}
	foreign := w.Groups[0].Members[1]
	do.must(t, Command{Behind: &Behind{Volume: v.ID, Epoch: v.Epoch, Chunks: []raid.ChunkID{foreign.Chunk}}})
	for _, of := range []*Volume{v, w} {
		if m := of.Groups[0].Members[1]; m.State != raid.MemberInSync {
			t.Errorf("the chunk of another volume is named: member 1 of volume %s is %v", of.Name, m.State)
		}
	}
	if _, err := do(Command{Attach: &Attach{Name: "v", Holder: "other"}}); codeOf(err) != InUse {
		t.Errorf("a volume is taken from its holder: %v", err)
	}
	was := v.Epoch
	do.must(t, Command{Attach: &Attach{Name: "v", Holder: "other", Takeover: true}})
	if _, err := do(Command{Detach: &Detach{Volume: v.ID, Epoch: was}}); codeOf(err) != Fenced || v.Lease == nil {
		t.Errorf("a client that was replaced gives the lease back: %v, %+v", err, v.Lease)
	}
}

// After metadata was restored nobody is the first to open a volume, as somebody may
// have opened it after the backup.
func TestNobodyIsFirstAfterRestore(t *testing.T) {
	s := cluster(t, 8, 256<<20, nil)
	v := create(t, s, CreateVolume{Name: "new", Kind: raid.LayoutLog, Pages: 3000, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 256})
	if !v.Unopened {
		t.Fatal("a new volume was opened")
	}
	s.Recover(2000, "from a backup")
	if v.Unopened {
		t.Error("the next client is told that nobody was there before")
	}
}
