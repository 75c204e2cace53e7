package state

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dmps/raid"
)

// TestServersOfDifferentSizesFillAlike: no server is full while the cluster is not, and
// the large ones are used.
func TestServersOfDifferentSizesFillAlike(t *testing.T) {
	m := &sim{t: t, s: New(), geo: raid.Geometry{K: 4, M: 2}, lives: map[raid.ServerID]raid.Incarnation{}}
	total := uint64(0)
	for i := range 100 {
		memory := uint64(64 << 30)
		if i%2 == 1 {
			memory = 512 << 30
		}
		total += memory
		m.do(Command{Register: &Register{ID: raid.ServerID(fmt.Sprintf("s%02d", i)), Incarnation: 1, Addr: "a", MemoryTotal: memory}})
	}
	shares := func() (used float64, most, least map[uint64]float64) {
		most, least = map[uint64]float64{}, map[uint64]float64{64 << 30: 1, 512 << 30: 1}
		for _, sv := range m.s.Servers {
			share := float64(sv.Reserved) / float64(sv.MemoryTotal)
			most[sv.MemoryTotal], least[sv.MemoryTotal] = max(most[sv.MemoryTotal], share), min(least[sv.MemoryTotal], share)
			used += float64(sv.Reserved) / float64(total)
		}
		return used, most, least
	}
	for _, until := range []float64{0.26, 0.6, 0.8} {
		used := 0.0
		for used < until {
			m.create()
			used, _, _ = shares()
		}
		used, most, least := shares()
		full := 0
		for _, sv := range m.s.Servers {
			if sv.Free() < sv.MemoryTotal/20 {
				full++
			}
		}
		t.Logf("%.0f %% used, %d of 100 servers have less than 5 %% left: the fullest small one has %.0f %%, the emptiest %.0f %%; large ones %.0f, %.0f %%; %d copysets",
			100*used, full, 100*most[64<<30], 100*least[64<<30], 100*most[512<<30], 100*least[512<<30], len(m.sets()))
		if used < 0.7 && full > 0 {
			t.Errorf("%d servers are full while %.0f %% of the memory is used", full, 100*used)
		}
		if least[512<<30] < used/3 {
			t.Errorf("a large server has %.0f %% of its memory used, all together %.0f %%", 100*least[512<<30], 100*used)
		}
	}
	if err := m.s.Check(); err != nil {
		t.Fatal(err)
	}
}

// TestVolumesSpan: a client has sessions with tens of servers, not with all, and volumes
// together use all servers alike.
func TestVolumesSpan(t *testing.T) {
	m := newSim(t, 400, raid.Geometry{K: 4, M: 2})
	sessions := func(v *Volume) int {
		seen := map[raid.ServerID]bool{}
		for _, g := range v.Groups {
			for _, mb := range g.Members {
				seen[mb.Server] = true
			}
		}
		return len(seen)
	}
	gib := func(n uint64) uint64 { return n << 30 / raid.PageSize }
	for i, pages := range slices.Repeat([]uint64{gib(1), gib(16), gib(64), gib(256)}, 20) {
		m.do(Command{CreateVolume: &CreateVolume{Name: fmt.Sprint("v", i), Pages: pages, Geometry: m.geo, Seed: uint64(i)}})
		v, _ := m.s.VolumeByName(fmt.Sprint("v", i))
		if n := sessions(v); n > 6*span(6, len(v.Groups)) || pages <= gib(64) && n > 48 {
			t.Errorf("a volume of %d GiB, %d groups, is on %d servers", pages*raid.PageSize>>30, len(v.Groups), n)
		}
	}
	least, most, mean := uint64(simMemory), uint64(0), uint64(0)
	for _, sv := range m.s.Servers {
		least, most, mean = min(least, sv.Reserved), max(most, sv.Reserved), mean+sv.Reserved/400
	}
	t.Logf("%d to %d GiB are used of servers with 64, %d on average", least>>30, most>>30, mean>>30)
	if most > 2*mean || least < mean/3 {
		t.Errorf("servers have %d to %d MiB used, %d on average", least>>20, most>>20, mean>>20)
	}
}

// TestRackReturns: a volume on as many racks as a group has members loses one. It is
// healed across hosts, and spread by rack again when the rack is back, or another one
// in its place.
func TestRackReturns(t *testing.T) {
	for _, again := range []string{"the same servers", "others in another rack"} {
		s := New()
		do := func(c Command) {
			t.Helper()
			must(t, s, &c)
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
		}
		join := func(id, rack string, life raid.Incarnation) {
			do(Command{Register: &Register{ID: raid.ServerID(id), Incarnation: life, Addr: "a", MemoryTotal: 1 << 30, Labels: map[string]string{"rack": rack}}})
		}
		for i := range 12 {
			join(fmt.Sprint("s", i), fmt.Sprint("r", i%6), 1)
		}
		do(Command{CreateVolume: &CreateVolume{Name: "v", Pages: 20000, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 256}})
		do(Command{Attach: &Attach{Name: "v", Holder: "h"}})
		v := s.Volumes[1]
		heal := func() {
			for c := (&Heal{Limit: 1000, Moves: 16}); s.WouldHeal(c) || len(filling(v)) > 0; {
				do(Command{Heal: c})
				if n := len(filling(v)); n > 16 && s.Servers["s0"].State == ServerUp {
					t.Fatalf("%d moves at once", n)
				}
				do(Command{Rebuilt: &Rebuilt{Volume: 1, Epoch: 1, Chunks: filling(v)}})
				for id, sv := range s.Servers {
					f := Freed{ID: id, Incarnation: sv.Incarnation}
					for c := range sv.Freeing {
						f.Chunks = append(f.Chunks, c)
					}
					do(Command{Freed: &f})
				}
			}
		}
		if v.PlacedBy != LevelRack {
			t.Fatalf("placed by %v", v.PlacedBy)
		}
		for _, id := range []raid.ServerID{"s0", "s6"} {
			do(Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerDown}})
		}
		heal()
		if v.PlacedBy != LevelHost || s.Health(v, nil).State != Healthy {
			t.Fatalf("with a rack down: placed by %v, %+v, stuck: %+v", v.PlacedBy, s.Health(v, nil), v.Stuck)
		}
		if c := s.Copysets(); c.Away == 0 || c.Repairs == 0 {
			t.Errorf("with a rack down: %+v", c)
		}
		if again == "the same servers" {
			join("s0", "r0", 2)
			join("s6", "r0", 2)
		} else {
			do(Command{RemoveServer: &RemoveServer{ID: "s0", Force: true}})
			do(Command{RemoveServer: &RemoveServer{ID: "s6", Force: true}})
			join("s12", "r6", 1)
			join("s13", "r6", 1)
		}
		heal()
		if v.PlacedBy != LevelRack || s.Health(v, nil).State != Healthy {
			t.Errorf("%s: placed by %v, %+v", again, v.PlacedBy, s.Health(v, nil))
		}
		if c := s.Copysets(); c.Away > 0 || c.Repairs > 0 {
			t.Errorf("%s: %+v", again, c)
		}
	}
}

// TestSubstitutesAreFew: what stands in for a lost server makes few combinations, and
// shares the work.
func TestSubstitutesAreFew(t *testing.T) {
	m := newSim(t, 200, raid.Geometry{K: 8, M: 2})
	m.fill(200)
	id := raid.ServerID("s0007")
	before, sets, held := len(m.sets()), 0, int(m.s.Servers[id].Chunks)
	for _, set := range m.s.index.home {
		if slices.Contains(set.servers, id) {
			sets++
		}
	}
	m.fail(id)
	if made := len(m.sets()) - before + sets; made > substitutes*sets || made < 2*sets {
		t.Errorf("server %s was in %d combinations, substitutes for it make %d", id, sets, made)
	}
	most := 0
	takers := map[raid.ServerID]int{}
	for k := range m.s.index.away[id] {
		for _, mb := range m.s.Volumes[k.Volume].Groups[k.Group].Members {
			if mb.Home == id {
				takers[mb.Server]++
				most = max(most, takers[mb.Server])
			}
		}
	}
	if most > held/2 || len(takers) < 4 {
		t.Errorf("of %d members one server got %d: %v", held, most, takers)
	}
}

// TestRegainLooks: that all members are where they belong does not say that these
// servers are apart: labels change.
func TestRegainLooks(t *testing.T) {
	s := New()
	join := func(i int, rack string) {
		must(t, s, &Command{Register: &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: 1 << 30, Labels: map[string]string{"rack": rack}}})
	}
	for i := range 4 {
		join(i, fmt.Sprint("r", i%3))
	}
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	if v.PlacedBy != LevelRack {
		t.Fatalf("placed by %v", v.PlacedBy)
	}
	v.PlacedBy = LevelHost
	for i := range 3 {
		join(i, "r0")
	}
	s.touchGroup(v.ID, 0)
	s.settle()
	if v.PlacedBy != LevelHost {
		t.Errorf("all are in one rack, and it counts as spread by %v", v.PlacedBy)
	}
	for i := range 4 {
		join(i, fmt.Sprint("r", i%3))
	}
	s.touchGroup(v.ID, 0)
	s.settle()
	if v.PlacedBy != LevelRack {
		t.Errorf("all are in racks of their own, and it counts as spread by %v", v.PlacedBy)
	}
	v.PlacedBy = LevelHost
	must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "h"}}) // a move takes its time
	crowded := map[raid.ServerID]raid.ServerID{"s0": "s3", "s3": "s0"}
	for _, m := range v.Groups[0].Members {
		if to := crowded[m.Server]; to != "" {
			col := slices.IndexFunc(v.Groups[0].Members, func(o Member) bool { return o.Server != m.Server })
			s.take(step{v: v, col: col, kind: stepMove, to: to, by: LevelHost})
		}
	}
	s.settle()
	if v.PlacedBy != LevelHost {
		t.Errorf("a member moves beside another one, and it counts as spread by %v", v.PlacedBy)
	}
}

// TestMembersGoHome takes servers away, for good or for a while, and lets new ones join,
// in any order. When there are enough again, and time, every member is where it belongs,
// and the groups lie on so many copysets as they were placed on.
func TestMembersGoHome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &healer{t: t, s: New(), lives: map[raid.ServerID]raid.Incarnation{}}
		join := func() { h.register(raid.ServerID(fmt.Sprintf("s%02d", len(h.lives)))) }
		for range rapid.IntRange(9, 14).Draw(t, "servers") {
			join()
		}
		geo := rapid.SampledFrom([]raid.Geometry{{K: 4, M: 2}, {K: 1, M: 2}, {K: 2, M: 1}}).Draw(t, "geometry")
		for i := range 2 {
			name := fmt.Sprint("v", i)
			h.do(Command{CreateVolume: &CreateVolume{Name: name, Pages: 1200, Geometry: geo, ChunkSlots: 256, Seed: rapid.Uint64().Draw(t, "seed")}})
			h.do(Command{Attach: &Attach{Name: name, Holder: "h"}})
		}
		sets, servers := len(h.s.index.live), len(h.lives)
		mend := func() { // as healer.quietly, but for servers that are away
			for range 200 {
				for _, v := range h.s.SortedVolumes() {
					h.do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: filling(v)}})
				}
				for _, sv := range h.s.SortedServers() {
					h.do(Command{Freed: &Freed{ID: sv.ID, Incarnation: sv.Incarnation, Chunks: slices.Collect(maps.Keys(sv.Freeing))}})
				}
				c := &Heal{Limit: rapid.SampledFrom([]int{3, 1000}).Draw(t, "limit"), Moves: 3}
				if !h.s.WouldHeal(c) {
					return
				}
				h.do(Command{Heal: c})
				moving := 0
				for _, v := range h.s.Volumes {
					for _, g := range v.Groups {
						moving += len(g.Pending)
					}
				}
				if moving > 3 {
					t.Fatalf("%d members move at once", moving)
				}
			}
			t.Fatal("healing does not end")
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			ids := slices.Sorted(maps.Keys(h.s.Servers))
			id := rapid.SampledFrom(ids).Draw(t, "server")
			switch sv := h.s.Servers[id]; rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				if len(ids) > geo.Members()+1 {
					h.set(id, ServerDown)
				}
			case 2:
				if sv.State == ServerDown {
					h.register(id)
				}
			case 3:
				if sv.State == ServerDown && len(ids) > geo.Members()+1 {
					h.do(Command{RemoveServer: &RemoveServer{ID: id, Force: true}})
				}
			case 4:
				h.do(Command{Drain: &Drain{ID: id, Off: sv.Draining}})
			}
			mend()
		}
		for len(h.s.Servers) < servers {
			join()
		}
		for id, sv := range h.s.Servers {
			if sv.State != ServerUp {
				h.set(id, ServerUp)
			}
			h.do(Command{Drain: &Drain{ID: id, Off: true}})
		}
		mend()
		if c := h.s.Copysets(); c.Away > 0 || c.Repairs > 0 || c.Sets > sets {
			t.Fatalf("%d copysets at first, in the end %+v", sets, c)
		}
	})
}

// TestStandInCanGoHome: a volume is placed on the copyset of a server that is away only if
// its members can go home: that server keeps the domains apart that the volume asks for.
func TestStandInCanGoHome(t *testing.T) {
	s := New()
	join := func(i, rack int) {
		must(t, s, &Command{Register: &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: 1 << 30,
			Labels: map[string]string{"host": fmt.Sprint("h", i), "rack": fmt.Sprint("r", rack)}}})
	}
	for i, rack := range []int{0, 0, 1} {
		join(i, rack)
	}
	create(t, s, CreateVolume{Name: "old", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	join(3, 2)
	join(4, 3)
	must(t, s, &Command{SetServer: &SetServer{ID: "s1", Incarnation: 1, State: ServerSuspect}})
	for seed := range 8 {
		create(t, s, CreateVolume{Name: fmt.Sprint("v", seed), Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}, Domain: LevelRack, Seed: uint64(seed)})
	}
	must(t, s, &Command{SetServer: &SetServer{ID: "s1", Incarnation: 1, State: ServerUp}})
	for c := (&Heal{Limit: 1000, Moves: 3}); s.WouldHeal(c); {
		must(t, s, &Command{Heal: c})
	}
	if n := s.Copysets().Away; n > 0 {
		t.Errorf("%d members never go home", n)
	}
}

// TestStandInIsNoCover: who stands in for a server is in no copyset more because of that.
func TestStandInIsNoCover(t *testing.T) {
	for _, gone := range []raid.ServerID{"s00", "s03", "s07"} {
		s := cluster(t, 8, 1<<30, nil)
		create(t, s, CreateVolume{Name: "old", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
		must(t, s, &Command{SetServer: &SetServer{ID: gone, Incarnation: 1, State: ServerSuspect}})
		pick := newPicker(s)
		pick.ready()
		p := &placement{pick: pick, cands: pick.cands, members: 3, known: map[string]bool{}, cover: make([]int, len(pick.cands))}
		p.addKnown(s)
		for i, c := range p.cands {
			n := 0
			for _, set := range s.index.home {
				if slices.Contains(set.servers, c.ID) {
					n++
				}
			}
			if p.cover[i] != n {
				t.Errorf("without %s: %s is at home in %d copysets, and counts as in %d", gone, c.ID, n, p.cover[i])
			}
		}
	}
}
