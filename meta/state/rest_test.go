package state

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dmps/raid"
)

// TestHealingEnds has servers of different sizes come, go and be drained, removed, relabelled
// and short of memory while memory use is evened out: whatever is left on, members do not
// move for ever.
func TestHealingEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &healer{t: t, s: New(), lives: map[raid.ServerID]raid.Incarnation{}}
		memory := map[raid.ServerID]uint64{}
		register := func(id raid.ServerID, life raid.Incarnation) {
			h.lives[id] = life
			h.do(Command{Register: &Register{ID: id, Incarnation: life, Addr: "a", MemoryTotal: memory[id],
				Labels: map[string]string{"rack": fmt.Sprint("r", rapid.IntRange(0, 3).Draw(t, "rack"))}}})
		}
		join := func() {
			id := raid.ServerID(fmt.Sprintf("s%02d", len(h.lives)))
			memory[id] = rapid.SampledFrom([]uint64{24, 64, 64, 200}).Draw(t, "memory") << 20
			register(id, 1)
		}
		for range rapid.IntRange(7, 12).Draw(t, "servers") {
			join()
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "volumes") {
			name := fmt.Sprint("v", i)
			c := &Command{Now: 1, CreateVolume: &CreateVolume{Name: name, Pages: 1200, ChunkSlots: 256, Seed: rapid.Uint64().Draw(t, "seed"),
				Geometry: rapid.SampledFrom([]raid.Geometry{{K: 4, M: 2}, {K: 1, M: 2}, {K: 2, M: 1}}).Draw(t, "geometry")}}
			if _, err := h.s.Apply(c); err == nil && rapid.Bool().Draw(t, "attached") {
				h.do(Command{Attach: &Attach{Name: name, Holder: "h"}})
			}
		}
		volume := func(c *Heal) {
			if rapid.IntRange(0, 3).Draw(t, "for one") == 0 {
				c.Volume = 1
			}
			h.do(Command{Heal: c})
		}
		give := func() {
			for _, v := range h.s.SortedVolumes() {
				if v.Lease != nil {
					h.do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: filling(v)}})
				}
			}
			for _, sv := range h.s.SortedServers() {
				h.do(Command{Freed: &Freed{ID: sv.ID, Incarnation: sv.Incarnation, Chunks: slices.Collect(maps.Keys(sv.Freeing))}})
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			id := rapid.SampledFrom(slices.Sorted(maps.Keys(h.s.Servers))).Draw(t, "server")
			sv := h.s.Servers[id]
			switch rapid.IntRange(0, 10).Draw(t, "step") {
			case 0:
				h.set(id, rapid.SampledFrom([]ServerState{ServerUp, ServerSuspect, ServerDown}).Draw(t, "state"))
			case 1:
				register(id, sv.Incarnation+raid.Incarnation(rapid.IntRange(0, 1).Draw(t, "new life")))
			case 2:
				if sv.State == ServerDown && len(h.s.Servers) > 7 {
					h.do(Command{RemoveServer: &RemoveServer{ID: id, Force: true}})
				}
			case 3:
				h.do(Command{Drain: &Drain{ID: id, Off: rapid.Bool().Draw(t, "off")}})
			case 4:
				h.do(Command{Shortage: &Shortage{ID: id, Incarnation: sv.Incarnation, Short: rapid.Bool().Draw(t, "short"), Wanted: 8 << 20}})
			case 5:
				h.do(Command{Rebalance: &Rebalance{Threshold: rapid.IntRange(1, 20).Draw(t, "threshold")}})
			case 6:
				if len(h.lives) < 16 {
					join()
				}
			case 7, 8:
				give()
			default:
				volume(&Heal{Limit: rapid.SampledFrom([]int{2, 1000}).Draw(t, "limit"), Moves: rapid.IntRange(1, 9).Draw(t, "moves")})
			}
		}
		for round := 0; ; round++ {
			give()
			c := &Heal{Limit: 1000, Moves: 4}
			if !h.s.WouldHeal(c) {
				break
			}
			if round == 500 {
				t.Fatalf("healing does not end: %+v", h.s.heal(c))
			}
			h.do(Command{Heal: c})
		}
	})
}
