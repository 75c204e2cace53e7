package state

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dmps/raid"
)

// TestHealWhatIsGone takes any number of servers away, for good or for a while,
// from volumes on just as many servers as a group has members. Nobody who may
// come back is given up. When all servers are up, empty or not, every group can
// be written again, and once its client has written all anew it is whole.
func TestHealWhatIsGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &healer{t: t, s: New(), lives: map[raid.ServerID]raid.Incarnation{}}
		geo := rapid.SampledFrom([]raid.Geometry{{K: 4, M: 2}, {K: 2, M: 1}, {K: 1, M: 1}, {K: 1, M: 2}, {K: 1}}).Draw(t, "geometry")
		var ids []raid.ServerID
		for i := range geo.Members() {
			ids = append(ids, raid.ServerID(fmt.Sprintf("s%d", i)))
			h.register(ids[i])
		}
		h.do(Command{CreateVolume: &CreateVolume{Name: "v", Pages: 3000, Geometry: geo, ChunkSlots: 256}})
		h.do(Command{Attach: &Attach{Name: "v", Holder: "h"}})
		v := h.s.Volumes[1]
		limit := rapid.IntRange(0, 3).Draw(t, "rebuilding") // a group that is bereft must not use it up
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch id := rapid.SampledFrom(ids).Draw(t, "server"); rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				h.register(id) // it comes back empty
			case 1:
				h.set(id, rapid.SampledFrom([]ServerState{ServerUp, ServerSuspect, ServerDown}).Draw(t, "state"))
			case 2: // checkHeal looks at whom it gives up
				h.do(Command{Heal: &Heal{Seed: rapid.Uint64().Draw(t, "seed"), Limit: 1000, Rebuilding: limit, Moves: 3}})
			case 3:
				h.do(Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 1, Chunks: filling(v)}})
			}
		}
		for _, id := range ids {
			h.set(id, ServerUp)
		}
		for round := range 100 {
			for id, sv := range h.s.Servers {
				f := Freed{ID: id, Incarnation: sv.Incarnation}
				for c := range sv.Freeing {
					f.Chunks = append(f.Chunks, c)
				}
				h.do(Command{Freed: &f})
			}
			h.do(Command{Heal: &Heal{Seed: uint64(round), Limit: 1000, Rebuilding: limit, Moves: 3}})
			lost, waits := 0, 0
			for _, g := range v.Groups {
				n := 0
				for _, m := range g.Members {
					if m.State == raid.MemberLost {
						n++
					}
				}
				if g.bereft(geo.K) {
					lost += n
				} else {
					waits += n
				}
			}
			if lost > 0 {
				t.Fatalf("all servers are up, and %d members of groups that cannot be rebuilt have no replacement: %+v", lost, v.Stuck)
			}
			if waits == 0 {
				break
			}
			// Those that can be rebuilt take their turns.
			h.do(Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 1, Chunks: pulling(h.s, v)}})
		}
		h.do(Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 1, Chunks: filling(v)}}) // all was written anew
		h.quietly()
		if hl := h.s.Health(v, nil); hl.State != Healthy || v.Stuck != nil {
			t.Fatalf("in the end: %+v, stuck: %+v", hl, v.Stuck)
		}
	})
}

// A member whose server is merely away is not given up with those that are lost,
// unless somebody says that it is gone for good.
func TestAwayIsNotGone(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	g := v.Groups[0]
	servers := make([]raid.ServerID, 6)
	for c, m := range g.Members {
		servers[c] = m.Server
	}
	for _, id := range servers[:3] {
		do.must(t, Command{Register: &Register{ID: id, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
	}
	away := g.Members[3]
	do.must(t, Command{SetServer: &SetServer{ID: away.Server, Incarnation: 1, State: ServerDown}})
	heal := Command{Heal: &Heal{Limit: 1000, Moves: 16}}
	do.must(t, heal)
	if g.Members[3] != away || v.Stuck == nil {
		t.Fatalf("the member of a server that is away: %+v, was %+v; stuck: %+v", g.Members[3], away, v.Stuck)
	}
	if i := slices.IndexFunc(g.Members[:3], func(m Member) bool { return m.State != raid.MemberRebuilding }); i >= 0 {
		t.Fatalf("member %d: %+v", i, g.Members[i])
	}
	do.must(t, Command{RemoveServer: &RemoveServer{ID: away.Server, Force: true}})
	do.must(t, heal)
	if m := g.Members[3]; m.State != raid.MemberRebuilding || m.Chunk == away.Chunk || v.Stuck != nil {
		t.Fatalf("after its server was given up: %+v, stuck: %+v", m, v.Stuck)
	}
}

// Pages of volumes in place have nothing that tells an empty chunk from one that
// was never written: what is gone there must not read as zeros.
func TestNoReplacementInPlace(t *testing.T) {
	for _, kind := range []raid.LayoutKind{raid.LayoutLinear, raid.LayoutStriped} {
		s, do := careCluster(t)
		for _, c := range []Command{
			{CreateVolume: &CreateVolume{Name: "w", Pages: 3000, Geometry: raid.Geometry{K: 1}, Kind: kind}},
			{Attach: &Attach{Name: "w", Holder: "user"}},
			{Register: &Register{ID: "s0", Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}},
			{Heal: &Heal{Limit: 1000, Moves: 16}},
		} {
			do.must(t, c)
		}
		v, _ := s.VolumeByName("w")
		if v.Stuck == nil || len(filling(v)) > 0 {
			t.Errorf("%v: %d chunks are filled, stuck: %+v", kind, len(filling(v)), v.Stuck)
		}
	}
}

// Health tells groups that lost what cannot come back from those that merely wait,
// and those of which nothing is left.
func TestHealthOfWhatIsGone(t *testing.T) {
	s, do := careCluster(t)
	v := s.Volumes[1]
	g := v.Groups[0]
	for i, id := range []raid.ServerID{g.Members[0].Server, g.Members[1].Server, g.Members[2].Server} {
		if h := s.Health(v, nil); h.Bereft != 0 {
			t.Fatalf("%d servers lost: %+v", i, h)
		}
		do.must(t, Command{Register: &Register{ID: id, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
	}
	if h := s.Health(v, nil); h.Bereft == 0 || h.Empty != 0 || h.State != Failed {
		t.Fatalf("three servers lost: %+v", h)
	}
	for i := range 8 {
		id := raid.ServerID(fmt.Sprint("s", i))
		if s.Servers[id].Incarnation == 2 {
			continue
		}
		do.must(t, Command{Register: &Register{ID: id, Incarnation: 2, Addr: "a", MemoryTotal: 256 << 20}})
	}
	if h := s.Health(v, nil); h.Empty != uint64(len(v.Groups)) || h.Bereft != h.Empty {
		t.Fatalf("all servers lost: %+v", h)
	}
}
