package state

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"dmps/raid"
)

// spread is the difference between the fullest and the emptiest server, and
// the fullest one's share.
func spread(s *State) (diff, most float64) {
	least := 1.0
	for _, sv := range s.Servers {
		u := float64(sv.Reserved) / float64(sv.MemoryTotal)
		least, most = min(least, u), max(most, u)
	}
	return most - least, most
}

// TestRebalance adds empty servers to full ones. Moves end, keep the failure
// domains apart, are bounded, never make the fullest server fuller, and leave
// no more between the servers than was asked for and chunks allow.
func TestRebalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &healer{t: t, s: New(), lives: map[raid.ServerID]raid.Incarnation{}}
		add := func(n int) {
			for range n {
				id := raid.ServerID(fmt.Sprintf("s%02d", len(h.lives)))
				h.lives[id] = 1
				h.do(Command{Register: &Register{
					ID: id, Incarnation: 1, Addr: "a", MemoryTotal: rapid.Uint64Range(200, 400).Draw(t, "memory") << 20,
				}})
			}
		}
		add(rapid.IntRange(6, 9).Draw(t, "servers"))
		attached := rapid.Bool().Draw(t, "attached")
		for i := range rapid.IntRange(1, 3).Draw(t, "volumes") {
			name := fmt.Sprintf("v%d", i)
			h.do(Command{CreateVolume: &CreateVolume{
				Name: name, Pages: rapid.Uint64Range(1000, 20000).Draw(t, "pages"), ChunkSlots: 256, Seed: uint64(i),
				Geometry: rapid.SampledFrom([]raid.Geometry{{K: 4, M: 2}, {K: 1, M: 2}, {K: 2, M: 1}}).Draw(t, "geometry"),
			}})
			if attached {
				h.do(Command{Attach: &Attach{Name: name, Holder: "h"}})
			}
		}
		add(rapid.IntRange(1, 4).Draw(t, "more servers"))
		threshold := rapid.IntRange(2, 30).Draw(t, "threshold")
		h.do(Command{Rebalance: &Rebalance{Threshold: threshold}})
		_, most := spread(h.s)
		const moves = 5
		for round := 0; h.s.Balance != nil; round++ {
			if round > 500 {
				t.Fatal("rebalancing does not end")
			}
			h.do(Command{Heal: &Heal{Seed: uint64(round), Limit: 50, Moves: moves}})
			pending := 0
			for _, v := range h.s.SortedVolumes() {
				pending += len(filling(v))
				if attached {
					h.do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: filling(v)}})
				}
			}
			if pending > moves {
				t.Fatalf("%d moves at once", pending)
			}
			for id, sv := range h.s.Servers {
				f := Freed{ID: id, Incarnation: 1}
				for c := range sv.Freeing {
					f.Chunks = append(f.Chunks, c)
				}
				h.do(Command{Freed: &f})
			}
			_, now := spread(h.s)
			if now > most {
				t.Fatalf("the fullest server had %.3f of its memory used, now %.3f", most, now)
			}
			most = now
		}
		// What is left over the threshold is a chunk of the smallest server, or
		// groups that are as wide as the cluster.
		chunk := float64(257<<12+256*128) / float64(200<<20)
		if diff, _ := spread(h.s); len(h.s.Servers) >= 9 && diff > float64(threshold)/100+2*chunk {
			t.Fatalf("spread %.3f, threshold %d %%", diff, threshold)
		}
	})
}
