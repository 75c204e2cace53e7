package state

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dmps/meta/level"
	"dmps/raid"
)

// healer is a cluster that is not refused much: every server its own host.
type healer struct {
	t     *rapid.T
	s     *State
	lives map[raid.ServerID]raid.Incarnation
	now   int64
}

func (h *healer) do(c Command) any {
	h.t.Helper()
	h.now += 10
	c.Now = h.now
	next := h.s.NextChunk
	var before map[GroupKey][]Member
	if c.Heal != nil {
		before = membersOf(h.s)
	}
	v, err := h.s.Apply(&c)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.s.Check(); err != nil {
		b, _ := c.Encode(level.Highest)
		h.t.Fatalf("after %s: %v", b, err)
	}
	if c.Heal != nil {
		checkHeal(h.t, h.s, c.Heal, next, before)
	}
	return v
}

// membersOf copies the members of all groups.
func membersOf(s *State) map[GroupKey][]Member {
	m := map[GroupKey][]Member{}
	for _, v := range s.Volumes {
		for g, group := range v.Groups {
			m[GroupKey{v.ID, raid.GroupID(g)}] = slices.Clone(group.Members)
		}
	}
	return m
}

func (h *healer) register(id raid.ServerID) {
	h.lives[id]++
	h.do(Command{Register: &Register{ID: id, Incarnation: h.lives[id], Addr: "a", MemoryTotal: 256 << 20}})
}

func (h *healer) set(id raid.ServerID, st ServerState) {
	h.do(Command{SetServer: &SetServer{ID: id, Incarnation: h.lives[id], State: st}})
}

// quietly brings everything to rest: servers up, moves and rebuilds done,
// memory given back.
func (h *healer) quietly() {
	for id, sv := range h.s.Servers {
		if sv.State != ServerUp {
			h.set(id, ServerUp)
		}
		h.do(Command{Shortage: &Shortage{ID: id, Incarnation: sv.Incarnation}})
	}
	for round := 0; ; round++ {
		if round > 200 {
			h.t.Fatal("healing does not end")
		}
		for _, v := range h.s.SortedVolumes() {
			h.do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: filling(v)}})
		}
		for id, sv := range h.s.Servers {
			f := Freed{ID: id, Incarnation: sv.Incarnation}
			for c := range sv.Freeing {
				f.Chunks = append(f.Chunks, c)
			}
			h.do(Command{Freed: &f})
		}
		c := &Heal{Seed: uint64(round), Limit: 100, Moves: 3}
		if !h.s.WouldHeal(c) {
			return
		}
		h.do(Command{Heal: c})
	}
}

// filling lists the chunks of a volume that are being filled.
func filling(v *Volume) (out []raid.ChunkID) {
	for _, g := range v.Groups {
		for _, m := range g.Members {
			if m.State == raid.MemberRebuilding {
				out = append(out, m.Chunk)
			}
		}
		for _, p := range g.Pending {
			out = append(out, p.Member.Chunk)
		}
	}
	return out
}

// pulling leaves out what nothing can be pulled for now.
func pulling(s *State, v *Volume) (out []raid.ChunkID) {
	for _, g := range v.Groups {
		if g.bereft(v.Geometry.K) {
			continue
		}
		one := &Volume{Groups: []*Group{g}}
		for _, id := range filling(one) {
			down := slices.ContainsFunc(g.Members, func(m Member) bool { return m.Chunk == id && s.Servers[m.Server].State == ServerDown })
			if !down {
				out = append(out, id)
			}
		}
	}
	return out
}

// versioned is what of a layout a version stands for.
func versioned(s *State, v *Volume) []raid.Group {
	l := s.Layout(v, 1, false)
	for _, g := range l.Groups {
		for c := range g.Members {
			g.Members[c].Addr = ""
		}
		for i := range g.Pending {
			g.Pending[i].Member.Addr = ""
		}
	}
	return l.Groups
}

// checkHeal looks at what was healed this moment: chunks from next on are new,
// before are the members that there were.
func checkHeal(t *rapid.T, s *State, c *Heal, next raid.ChunkID, before map[GroupKey][]Member) {
	for _, v := range s.Volumes {
		for g, group := range v.Groups {
			at := fmt.Sprintf("volume %d group %d", v.ID, g)
			fresh := func(col int, m Member) {
				if m.Chunk < next {
					return
				}
				sv := s.Servers[m.Server]
				if sv.State != ServerUp || sv.emptying() || slices.Contains(c.Full, m.Server) || sv.Reserved > sv.MemoryTotal {
					t.Fatalf("%s: a new member on server %+v", at, sv)
				}
				if v.fresh() != (m.State == raid.MemberInSync) {
					t.Fatalf("%s: a new member is %v, last lease %d", at, m.State, v.LastLease)
				}
				apartFrom := func(c int, o Member) {
					if c == col || o.State == raid.MemberLost {
						return
					}
					if so := s.Servers[o.Server]; !apart(sv, so, v.Domain, v.Domain) {
						t.Fatalf("%s: new member %d on %s shares a domain with %s", at, col, sv.ID, so.ID)
					}
				}
				for c, o := range group.Members {
					apartFrom(c, o)
				}
				for _, p := range group.Pending {
					apartFrom(int(p.Col), p.Member)
				}
			}
			sources := 0
			for col, m := range group.Members {
				fresh(col, m)
				// Who says that a chunk was refused may be late, or wrong: it may hold rows by now.
				if was := before[GroupKey{v.ID, raid.GroupID(g)}][col]; slices.Contains(c.Refused, was.Chunk) && was.State != raid.MemberLost && (m.Chunk != was.Chunk || m.State != was.State) &&
					s.Servers[was.Server].State == ServerUp {
					t.Fatalf("%s: member %d was %+v, and is %+v because it was refused", at, col, was, m)
				}
				if m.State == raid.MemberInSync { // a lost one's server may have been removed
					if st := s.Servers[m.Server].State; st != ServerDown && !(st == ServerSuspect && c.Volume != 0) {
						sources++
					}
				}
				if c.Volume != 0 && v.ID != c.Volume && m.Chunk >= next {
					t.Fatalf("%s was healed, and volume %d was asked for", at, c.Volume)
				}
			}
			for col, m := range group.Members {
				was := before[GroupKey{v.ID, raid.GroupID(g)}][col]
				if m.State != raid.MemberRebuilding || m.Chunk < next || sources >= v.Geometry.K {
					continue
				}
				if !group.bereft(v.Geometry.K) || was.State != raid.MemberLost || v.Kind != raid.LayoutLog {
					t.Fatalf("%s: healed with %d sources: member %d was %+v", at, sources, col, was)
				}
			}
			for _, p := range group.Pending {
				fresh(int(p.Col), p.Member)
			}
		}
		if n := len(pulling(s, v)); c.Rebuilding > 0 && n > c.Rebuilding {
			// More may only be left over from before.
			for _, id := range pulling(s, v) {
				if id >= next {
					t.Fatalf("volume %d: %d members are filled at once, of %d", v.ID, n, c.Rebuilding)
				}
			}
		}
	}
	if again := s.planHeal(c); len(again.steps) > 0 && c.Limit > 100 {
		for _, st := range again.steps {
			if st.kind == stepReplace || st.kind == stepPromote {
				t.Fatalf("healing again would do more: %+v", again.steps)
			}
		}
	}
}

// TestHealing takes servers away and lets them come back, empty or not, drains
// them, and lets them run short of memory, in any order, while groups are healed. As long as no group ever
// misses more than M members, all is whole in the end, and drained servers
// hold nothing.
func TestHealing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &healer{t: t, s: New(), lives: map[raid.ServerID]raid.Incarnation{}}
		n := rapid.IntRange(7, 9).Draw(t, "servers")
		var ids []raid.ServerID
		for i := range n {
			ids = append(ids, raid.ServerID(fmt.Sprintf("s%d", i)))
			h.register(ids[i])
		}
		geo := rapid.SampledFrom([]raid.Geometry{{K: 4, M: 2}, {K: 1, M: 2}, {K: 2, M: 1}}).Draw(t, "geometry")
		for i := range 2 {
			name := fmt.Sprintf("v%d", i)
			h.do(Command{CreateVolume: &CreateVolume{Name: name, Pages: 3000, Geometry: geo, ChunkSlots: 256, Seed: uint64(i)}})
			h.do(Command{Attach: &Attach{Name: name, Holder: "h"}})
		}
		server := func() raid.ServerID { return rapid.SampledFrom(ids).Draw(t, "server") }
		drained := func() (n int) {
			for _, sv := range h.s.Servers {
				if sv.emptying() {
					n++
				}
			}
			return n
		}
		refused := func() (out []raid.ChunkID, full []raid.ServerID) {
			for range rapid.IntRange(0, 4).Draw(t, "refused") {
				out = append(out, raid.ChunkID(rapid.Uint64Range(1, uint64(h.s.NextChunk)).Draw(t, "chunk")))
			}
			full = rapid.SliceOfN(rapid.SampledFrom(ids), 0, 2).Draw(t, "full")
			for _, id := range out {
				if _, m, ok := h.s.Chunk(h.s.chunks[id].Volume, id); ok {
					full = append(full, m.Server)
				}
			}
			return out, full
		}
		// Losing what a server holds is harmless while its groups have K others.
		mayLose := func(id raid.ServerID) bool {
			for _, v := range h.s.Volumes {
				for _, g := range v.Groups {
					others, hit := 0, false
					for _, m := range g.Members {
						switch {
						case m.Server == id:
							hit = true
						case m.State == raid.MemberInSync:
							others++
						}
					}
					if hit && others < geo.K {
						return false
					}
				}
			}
			return true
		}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			switch id := server(); rapid.IntRange(0, 11).Draw(t, "step") {
			case 0:
				if mayLose(id) {
					h.register(id)
				}
			case 1:
				h.set(id, ServerDown)
			case 2:
				h.set(id, rapid.SampledFrom([]ServerState{ServerUp, ServerSuspect}).Draw(t, "state"))
			case 3:
				if drained() < 1 {
					h.do(Command{Drain: &Drain{ID: id}})
				}
			case 4:
				h.do(Command{Drain: &Drain{ID: id, Off: true}})
			case 5, 6:
				c := &Heal{
					Seed: rapid.Uint64().Draw(t, "seed"), Limit: rapid.SampledFrom([]int{2, 1000}).Draw(t, "limit"),
					Moves: rapid.IntRange(0, 9).Draw(t, "moves"),
				}
				c.Refused, c.Full = refused()
				h.do(Command{Heal: c})
			case 9:
				h.do(Command{Heal: &Heal{
					Seed: rapid.Uint64().Draw(t, "seed"), Limit: rapid.SampledFrom([]int{2, 1000}).Draw(t, "limit"), Moves: 3,
					Volume: raid.VolumeID(rapid.IntRange(1, 2).Draw(t, "volume")),
				}})
			case 7:
				v := h.s.Volumes[raid.VolumeID(rapid.IntRange(1, 2).Draw(t, "volume"))]
				var some []raid.ChunkID
				for _, c := range filling(v) {
					if rapid.Bool().Draw(t, "rebuilt") {
						some = append(some, c)
					}
				}
				h.do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: some}})
			case 10:
				if drained() < 1 {
					h.do(Command{Shortage: &Shortage{ID: id, Incarnation: h.lives[id], Short: true, Wanted: rapid.Uint64Range(0, 20<<20).Draw(t, "wanted")}})
				}
			case 11:
				h.do(Command{Shortage: &Shortage{ID: id, Incarnation: h.lives[id]}})
			case 8:
				if sv := h.s.Servers[id]; rapid.Bool().Draw(t, "gave back") {
					f := Freed{ID: id, Incarnation: sv.Incarnation}
					for c := range sv.Freeing {
						f.Chunks = append(f.Chunks, c)
					}
					h.do(Command{Freed: &f})
				}
			}
		}
		h.quietly()
		for _, v := range h.s.SortedVolumes() {
			if hl := h.s.Health(v, nil); hl.State != Healthy || v.Stuck != nil || hl.Since != 0 || hl.Moving != 0 {
				t.Fatalf("volume %s in the end: %+v, stuck: %+v", v.Name, hl, v.Stuck)
			}
		}
		for id, sv := range h.s.Servers {
			if sv.Draining && (sv.Chunks > 0 || sv.Reserved > 0) {
				t.Fatalf("server %s was drained and holds %d chunks, %d bytes", id, sv.Chunks, sv.Reserved)
			}
		}
		if h.s.MayHeal() && !h.s.toGoHome() {
			t.Fatal("nothing is to be healed, it seems otherwise")
		}
	})
}

// BenchmarkPlanHeal is what a leader does under the lock on the state, and
// every replica once a batch: a volume of 8 TiB that misses a server of 30.
func BenchmarkPlanHeal(b *testing.B) {
	s := New()
	for i := range 30 {
		c := &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: 1 << 40}
		if _, err := s.Apply(&Command{Register: c}); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []Command{
		{CreateVolume: &CreateVolume{Name: "v", Pages: 6 << 40 / raid.PageSize, Geometry: raid.Geometry{K: 4, M: 2}}},
		{Attach: &Attach{Name: "v", Holder: "h"}},
		{SetServer: &SetServer{ID: "s3", Incarnation: 1, State: ServerDown}},
	} {
		if _, err := s.Apply(&c); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if p := s.planHeal(&Heal{Limit: 1024, Moves: 16}); len(p.steps) != 1024 {
			b.Fatal(len(p.steps))
		}
	}
}
