package state

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"dmps/raid"
)

// homeward is a volume whose members of s02 others stand in for.
type homeward struct {
	t *testing.T
	s *State
	v *Volume
}

func newHomeward(t *testing.T) homeward {
	h := homeward{t: t, s: cluster(t, 7, 1<<30, nil)}
	h.v = create(t, h.s, CreateVolume{Name: "v", Pages: 6000, ChunkSlots: 256, Geometry: raid.Geometry{K: 2, M: 1}})
	must(t, h.s, &Command{Attach: &Attach{Name: "v", Holder: "h"}})
	must(t, h.s, &Command{PutReport: &PutReport{Volume: h.v.ID, Epoch: h.v.LastLease, Report: Report{State: Healthy}}})
	h.set("s02", ServerDown)
	for range 20 {
		h.heal(1000)
		must(t, h.s, &Command{Rebuilt: &Rebuilt{Volume: h.v.ID, Epoch: h.v.LastLease, Chunks: filling(h.v)}})
	}
	if n := h.s.Copysets().Away; n < 5 || h.s.Servers["s02"].Chunks > 0 {
		t.Fatalf("%d members are away", n)
	}
	return h
}

func (h homeward) set(id raid.ServerID, st ServerState) {
	must(h.t, h.s, &Command{SetServer: &SetServer{ID: id, Incarnation: h.s.Servers[id].Incarnation, State: st}})
}

func (h homeward) restart(id raid.ServerID, memory uint64) {
	must(h.t, h.s, &Command{Register: &Register{ID: id, Incarnation: h.s.Servers[id].Incarnation + 1, Addr: "a", MemoryTotal: memory}})
}

func (h homeward) heal(limit int) {
	must(h.t, h.s, &Command{Heal: &Heal{Limit: limit, Moves: 3}})
	if err := h.s.Check(); err != nil {
		h.t.Fatal(err)
	}
}

// moving counts pending members of groups, and of those that are not whole.
func (h homeward) moving() (all, broken int) {
	for _, g := range h.v.Groups {
		all += len(g.Pending)
		if !g.whole() {
			broken += len(g.Pending)
		}
	}
	return all, broken
}

// Members go home where that is safe and of use: few at a time, when somebody fills them,
// when there is room, and nothing is to be healed in their group or elsewhere.
func TestGoingHomeWaits(t *testing.T) {
	for name, c := range map[string]struct {
		before func(h homeward)
		all    int
	}{
		"half of the moves": {func(h homeward) {}, 2},
		"nobody fills them": {func(h homeward) { must(t, h.s, &Command{Detach: &Detach{Volume: h.v.ID, Epoch: h.v.LastLease}}) }, 0},
		"no room":           {func(h homeward) { h.restart("s02", 4096) }, 0},
		"others are healed": {func(h homeward) { h.restart("s03", 1<<30) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHomeward(t)
			h.set("s02", ServerUp)
			c.before(h)
			h.heal(1000)
			if all, _ := h.moving(); all != c.all {
				t.Errorf("%d members move, want %d", all, c.all)
			}
		})
	}
	t.Run("not whole", func(t *testing.T) {
		h := newHomeward(t)
		h.restart("s03", 1<<30)
		h.heal(1000)
		h.set("s02", ServerUp)
		for range 3 {
			h.heal(1000)
		}
		if _, broken := h.moving(); broken > 0 {
			t.Errorf("%d members move of groups that are not whole", broken)
		}
	})
}

// A server that was started again gets its own members back at once.
func TestOwnMembersBack(t *testing.T) {
	h := newHomeward(t)
	var lost []ChunkRef
	for _, ref := range h.s.heldBy("s03") {
		if h.v.Groups[ref.Group].Members[ref.Col].Home == "" {
			lost = append(lost, ref)
		}
	}
	h.restart("s03", 1<<30)
	h.heal(1000)
	for _, ref := range lost {
		if m := h.v.Groups[ref.Group].Members[ref.Col]; m.Server != "s03" {
			t.Errorf("group %d member %d went to %s", ref.Group, ref.Col, m.Server)
		}
	}
	if len(lost) == 0 {
		t.Error("it had none")
	}
}

// The place of a server that was removed goes to one that keeps the domains apart.
func TestHeirIsApart(t *testing.T) {
	s := cluster(t, 8, 1<<30, func(i int) map[string]string { return map[string]string{"rack": fmt.Sprint("r", i%4)} })
	v := create(t, s, CreateVolume{Name: "v", Pages: 6000, ChunkSlots: 256, Geometry: raid.Geometry{K: 2, M: 2}})
	if v.PlacedBy != LevelRack {
		t.Fatalf("placed by %v", v.PlacedBy)
	}
	must(t, s, &Command{SetServer: &SetServer{ID: "s02", Incarnation: 1, State: ServerDown}})
	must(t, s, &Command{Heal: &Heal{Limit: 1000, Moves: 9}})
	must(t, s, &Command{RemoveServer: &RemoveServer{ID: "s02", Force: true}})
	for range 9 {
		must(t, s, &Command{Heal: &Heal{Limit: 1000, Moves: 9}})
	}
	for g, group := range v.Groups {
		racks := map[string]bool{}
		for _, m := range group.Members {
			racks[s.Servers[m.home()].domain(LevelRack)] = true
		}
		if len(racks) != 4 {
			t.Errorf("group %d belongs in %v", g, slices.Collect(maps.Keys(racks)))
		}
	}
	if s.Copysets().Away > 0 {
		t.Errorf("%+v", s.Copysets())
	}
}

// A server to which a member moves for good may become another member's home meanwhile:
// each of them has a home of its own then, all the same.
func TestHomeTakenMeanwhile(t *testing.T) {
	s := cluster(t, 3, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 100, ChunkSlots: 256, Geometry: raid.Geometry{K: 2, M: 1}})
	must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "h"}})
	must(t, s, &Command{Register: &Register{ID: "s03", Incarnation: 1, Addr: "a", MemoryTotal: 1 << 30}})
	s.take(step{v: v, col: 0, kind: stepMove, to: "s03", by: v.PlacedBy, stay: true})
	s.take(step{v: v, col: 1, kind: stepInherit, to: "s03"})
	s.settle()
	must(t, s, &Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: filling(v)}})
	if err := s.Check(); err != nil || v.Groups[0].Members[0].Server != "s03" {
		t.Errorf("%+v: %v", v.Groups[0], err)
	}
}
