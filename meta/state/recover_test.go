package state

import (
	"testing"

	"dmps/raid"
)

// A recovered state leaves everything behind that may have been decided after
// it, and believes no server before it says what it holds.
func TestRecover(t *testing.T) {
	s := cluster(t, 7, 1<<30, nil)
	geo := raid.Geometry{K: 4, M: 2}
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: geo})
	fresh := create(t, s, CreateVolume{Name: "fresh", Pages: 1000, Geometry: geo})
	must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "a"}})
	must(t, s, &Command{PutReport: &PutReport{Volume: v.ID, Epoch: 1, Report: Report{State: Healthy}}})
	must(t, s, &Command{SetServer: &SetServer{ID: "s06", Incarnation: 1, State: ServerDown}})
	epoch, chunk, volume, version, event := v.Epoch, s.NextChunk, s.NextVolume, v.Version, s.LastEvent()
	s.Recover(99, "in a test")
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if v.Lease != nil || v.Epoch < epoch+recoverEpochs || v.Version <= version || s.NextChunk < chunk+recoverChunks ||
		s.NextVolume < volume+recoverVolumes || s.LastEvent() < event+recoverEvents || fresh.LastLease == 0 {
		t.Errorf("volume %+v, next chunk %d, next volume %d, last event %d", v, s.NextChunk, s.NextVolume, s.LastEvent())
	}
	if n := len(s.Unverified(v)); n == 0 || s.Servers["s06"].State != ServerSuspect {
		t.Errorf("%d servers to wait for, s06 is %v", n, s.Servers["s06"].State)
	}

	// s00 holds all but one of what it should of v, and nothing of fresh.
	inv := &Inventory{ID: "s00", Incarnation: 1}
	var missing raid.ChunkID
	for _, g := range v.Groups {
		for _, m := range g.Members {
			switch {
			case m.Server != "s00":
			case missing == 0:
				missing = m.Chunk
			default:
				inv.Chunks = append(inv.Chunks, m.Chunk)
			}
		}
	}
	held := s.Servers["s00"].Chunks
	for range 2 { // said twice
		must(t, s, &Command{Inventory: inv})
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
	}
	lost := 0
	for _, x := range []*Volume{v, fresh} {
		for _, g := range x.Groups {
			for _, m := range g.Members {
				if m.State == raid.MemberLost {
					if lost++; m.Chunk != missing {
						t.Errorf("member %+v is lost", m)
					}
				}
			}
		}
	}
	if sv := s.Servers["s00"]; lost != 1 || sv.Chunks != held-1 || sv.Unverified || len(sv.Freeing) != 0 {
		t.Errorf("%d members lost, server %+v", lost, sv)
	}
}

// State that an older version wrote has no versions and no times.
func TestOlderRecords(t *testing.T) {
	s := cluster(t, 6, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 4, M: 2}})
	must(t, s, &Command{Register: &Register{ID: "s01", Incarnation: 2, Addr: "a", MemoryTotal: 1 << 30}})
	must(t, s, &Command{SetServer: &SetServer{ID: "s02", Incarnation: 1, State: ServerSuspect}})
	v.Version, s.Servers["s02"].Away, s.Events = 0, 0, nil
	for _, g := range v.Groups {
		g.Since = 0
	}
	s.Reindex()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if v.Version == 0 || !s.MayHeal() {
		t.Errorf("version %d", v.Version)
	}
	must(t, s, &Command{Heal: &Heal{Limit: 100}})
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
}

// A backup that is restored a second time gives nothing out that it gave out after
// the first: neither ids of chunks and volumes nor epochs, though it knows of none.
func TestRecoverTwiceFromOneBackup(t *testing.T) {
	const minute = 60_000
	made := func(now int64) (*State, *Volume) {
		s := cluster(t, 7, 1<<30, nil)
		v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 4, M: 2}})
		must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "a"}})
		s.Recover(now, "from a backup")
		return s, v
	}
	const at = 1_800_000_000_000 // Unix milliseconds
	s1, v1 := made(at)
	s2, v2 := made(at + 600*minute)
	const some = 500 // that were given out between
	for what, d := range map[string][2]uint64{
		"chunks":  {uint64(s1.NextChunk), uint64(s2.NextChunk)},
		"volumes": {uint64(s1.NextVolume), uint64(s2.NextVolume)},
		"epochs":  {uint64(v1.Epoch), uint64(v2.Epoch)},
	} {
		if d[1] < d[0]+some {
			t.Errorf("%s: the first restored state gives out from %d on, the second from %d", what, d[0], d[1])
		}
	}
	if s2.Freed(s1.NextChunk) {
		t.Error("what the first restored state gave out counts as freed")
	}
}
