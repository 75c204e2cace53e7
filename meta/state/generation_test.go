package state

import (
	"testing"

	"dmps/raid"
)

// What was given out after a backup is not what this state freed, nor are ids that it
// has yet to reach; these it passes over.
func TestFreedIsOwnDeed(t *testing.T) {
	s := cluster(t, 4, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	had := v.Groups[0].Members[0].Chunk
	if s.Freed(had) || s.Freed(s.NextChunk) {
		t.Error("freed although it is owned, or was never given out")
	}
	must(t, s, &Command{DeleteVolume: &DeleteVolume{Name: "v"}})
	if !s.Freed(had) {
		t.Error("what was deleted is not freed")
	}
	was := s.NextChunk
	s.Recover(99, "in a test")
	if first := s.Generation; first < 2 {
		t.Errorf("generation %d after a recovery", first)
	}
	if s.Freed(was) || s.Freed(s.NextChunk-1) || !s.Freed(had) {
		t.Error("a recovered state frees what it forgot, or not what it had freed before")
	}
	next := s.NextChunk
	must(t, s, &Command{Unknown: &Unknown{ID: "s00", Incarnation: 1, Chunks: 1, Bytes: 1 << 20, Next: next + 11}})
	if s.NextChunk != next+11 || s.Freed(next) || s.Freed(next+10) {
		t.Errorf("next chunk %d after %d", s.NextChunk, next)
	}
	if sv := s.Servers["s00"]; sv.Free() != 1<<30-1<<20-sv.Reserved {
		t.Errorf("%d bytes are free", sv.Free())
	}
	freeing := len(s.Servers["s00"].Freeing)
	if n := must(t, s, &Command{Purge: &Purge{ID: "s00", Incarnation: 1, Chunks: []raid.ChunkID{next + 10, 1 << 63}}}); n != uint64(1) {
		t.Errorf("%v chunks are to be given back", n) // not that which no id reaches
	}
	if _, ok := s.Servers["s00"].Freeing[next+10]; !ok || len(s.Servers["s00"].Freeing) != freeing+1 {
		t.Errorf("freeing %v", s.Servers["s00"].Freeing)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	must(t, s, &Command{Register: &Register{ID: "s00", Incarnation: 2, Addr: "a", MemoryTotal: 1 << 30}})
	if sv := s.Servers["s00"]; sv.Unknown > 0 || sv.Free() != 1<<30 {
		t.Errorf("after a restart: %+v", sv)
	}
}

// A volume that nobody ever opened has nothing that could be lost or out of reach.
func TestNeverWrittenIsNotFailed(t *testing.T) {
	s := cluster(t, 4, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 1}})
	must(t, s, &Command{SetServer: &SetServer{ID: v.Groups[0].Members[0].Server, Incarnation: 1, State: ServerDown}})
	if h := s.Health(v, nil); h.State != Degraded || h.RedundancyLeft != 0 {
		t.Errorf("never written: %+v", h)
	}
	must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "a"}})
	must(t, s, &Command{PutReport: &PutReport{Volume: v.ID, Epoch: 1, Report: Report{State: Healthy}}})
	if h := s.Health(v, nil); h.State != Failed {
		t.Errorf("opened: %+v", h)
	}
}

// A state that lacks nothing begins a new generation too, and keeps all else; a purge
// leaves alone what has an owner by now.
func TestAloneAndPurgeTakeNothing(t *testing.T) {
	s := cluster(t, 4, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "a"}})
	must(t, s, &Command{PutNode: &Node{ID: "n-1", Name: "n", API: "http://h:1", Raft: "h:2"}})
	was, epoch, next := s.Generation, v.Epoch, s.NextChunk
	s.Alone(99)
	if s.Generation <= was || len(s.Nodes) > 0 || v.Lease == nil || v.Epoch != epoch || s.NextChunk != next {
		t.Errorf("generation %d became %d, nodes %v, volume %+v", was, s.Generation, s.Nodes, v)
	}
	m := v.Groups[0].Members[0]
	if n := must(t, s, &Command{Purge: &Purge{ID: m.Server, Incarnation: 1, Chunks: []raid.ChunkID{m.Chunk}}}); n != uint64(0) || len(s.Servers[m.Server].Freeing) > 0 {
		t.Errorf("%v chunks of a volume are to be given back: %+v", n, s.Servers[m.Server])
	}
}
