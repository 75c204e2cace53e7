package state

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dmps/raid"
)

// restarted is what a node reads that was started again, or got a snapshot: the records of
// a state, and nothing that follows from them.
func restarted(t interface{ Fatal(...any) }, s *State) *State {
	out := New()
	out.Cluster, out.NextVolume, out.NextChunk, out.Generation, out.Gaps = s.Cluster, s.NextVolume, s.NextChunk, s.Generation, s.Gaps
	out.Level, out.LevelBy = s.Level, s.LevelBy
	again := func(from, to any) {
		b, err := json.Marshal(from)
		if err == nil {
			err = ReadAll(b, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	again(s.Servers, &out.Servers)
	again(s.Volumes, &out.Volumes)
	again(s.Nodes, &out.Nodes)
	again(s.Events, &out.Events)
	again(s.Balance, &out.Balance)
	for id, v := range s.Volumes {
		again(v.Groups, &out.Volumes[id].Groups)
	}
	out.Reindex()
	return out
}

// TestRestartedReplica applies random commands to a replica that lives on, to one that is
// started again now and then, and to one that is after each: they stay the same.
func TestRestartedReplica(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live, some, each := New(), New(), New()
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			c := drawCommand(t, live)
			c.Now = rapid.Int64Range(0, 1000).Draw(t, "now")
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				some = restarted(t, some)
			}
			each = restarted(t, each)
			for _, s := range []*State{live, some, each} {
				_, _ = s.Apply(c) // refused by all or by none: they are the same
			}
			for _, s := range []*State{some, each} {
				if d := cmp.Diff(dump(live), dump(s)); d != "" {
					t.Fatalf("replicas differ:\n%s", d)
				}
				if err := s.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestRestartRegainsNothing: a node that starts reads what the others have, and decides
// nothing, although labels have changed since the last command that touched a volume.
func TestRestartRegainsNothing(t *testing.T) {
	s := New()
	join := func(i int, rack string) {
		must(t, s, &Command{Register: &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: 1 << 30, Labels: map[string]string{"rack": rack}}})
	}
	for i := range 4 {
		join(i, fmt.Sprint("r", min(i, 2)))
	}
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	if v.PlacedBy != LevelRack {
		t.Fatalf("placed by %v", v.PlacedBy)
	}
	for i := range 4 {
		join(i, "r0")
	}
	must(t, s, &Command{SetServer: &SetServer{ID: v.Groups[0].Members[0].Server, Incarnation: 1, State: ServerDown}})
	must(t, s, &Command{Heal: &Heal{Limit: 100, Moves: 3}})
	for id := range s.Servers {
		if sv := s.Servers[id]; sv.State == ServerDown {
			must(t, s, &Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerUp}})
		}
	}
	must(t, s, &Command{Heal: &Heal{Limit: 100, Moves: 3}})
	if v.PlacedBy == LevelRack || s.index.strays[v.ID] > 0 {
		t.Fatalf("placed by %v, %d members away", v.PlacedBy, s.index.strays[v.ID])
	}
	for i := range 4 {
		join(i, fmt.Sprint("r", i))
	}
	if d := cmp.Diff(dump(s), dump(restarted(t, s))); d != "" {
		t.Errorf("a node that was started again differs:\n%s", d)
	}
}
