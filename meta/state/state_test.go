package state

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"dmps/meta/level"
	"dmps/raid"
)

// dump is the state for comparison; what was touched is the store's business.
func dump(s *State) string {
	type groups struct {
		ID     raid.VolumeID
		Groups []*Group
	}
	var g []groups
	for _, v := range s.SortedVolumes() {
		g = append(g, groups{v.ID, v.Groups})
	}
	b, err := json.Marshal([]any{s.Cluster, s.NextVolume, s.NextChunk, s.SortedServers(), s.SortedVolumes(), g, s.Nodes, s.Events, s.Balance})
	if err != nil {
		panic(err)
	}
	return string(b)
}

var geometries = []raid.Geometry{{K: 1}, {K: 1, M: 1}, {K: 1, M: 2}, {K: 2, M: 1}, {K: 4, M: 2}}

// drawCommand makes a command that is sometimes refused.
func drawCommand(t *rapid.T, s *State) *Command {
	server := func() raid.ServerID {
		return raid.ServerID(fmt.Sprintf("s%d", rapid.IntRange(0, 9).Draw(t, "server")))
	}
	volume := func() string { return fmt.Sprintf("v%d", rapid.IntRange(0, 4).Draw(t, "volume")) }
	incarnation := func(id raid.ServerID) raid.Incarnation {
		if sv := s.Servers[id]; sv != nil && rapid.IntRange(0, 3).Draw(t, "same life") > 0 {
			return sv.Incarnation
		}
		return raid.Incarnation(rapid.Uint64Range(1, 40).Draw(t, "incarnation"))
	}
	lease := func() (raid.VolumeID, raid.Epoch) {
		v, ok := s.VolumeByName(volume())
		if !ok {
			return 1, 1
		}
		return v.ID, v.LastLease - raid.Epoch(rapid.IntRange(0, 1).Draw(t, "older"))
	}
	switch rapid.IntRange(0, 14).Draw(t, "command") {
	case 0, 1:
		id := server()
		host := rapid.IntRange(0, 6).Draw(t, "host")
		return &Command{Register: &Register{
			ID: id, Incarnation: incarnation(id), Addr: "tcp://" + string(id),
			Labels: map[string]string{
				"host": fmt.Sprintf("h%d", host), "rack": fmt.Sprintf("r%d", host/2), "zone": fmt.Sprintf("z%d", host/4),
			},
			MemoryTotal: rapid.Uint64Range(0, 64).Draw(t, "memory") << 20, Heard: rapid.Bool().Draw(t, "heard"),
			Ghost: rapid.Bool().Draw(t, "ghost"),
		}}
	case 2:
		id := server()
		return &Command{SetServer: &SetServer{ID: id, Incarnation: incarnation(id), State: ServerState(rapid.IntRange(0, 3).Draw(t, "state"))}}
	case 3:
		return &Command{RemoveServer: &RemoveServer{ID: server(), Force: rapid.Bool().Draw(t, "force")}}
	case 4, 5:
		return &Command{CreateVolume: &CreateVolume{
			Name: volume(), Pages: rapid.Uint64Range(0, 8000).Draw(t, "pages"),
			Geometry: rapid.SampledFrom(geometries).Draw(t, "geometry"),
			Kind:     raid.LayoutKind(rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "kind")),
			Domain:   Level(rapid.IntRange(0, 3).Draw(t, "domain")), Seed: rapid.Uint64().Draw(t, "seed"),
			ChunkSlots: rapid.SampledFrom([]uint32{0, 0, 256, 512, 100}).Draw(t, "slots"),
		}}
	case 6:
		if rapid.Bool().Draw(t, "accept") {
			return &Command{AcceptLoss: &AcceptLoss{Name: volume()}}
		}
		return &Command{DeleteVolume: &DeleteVolume{Name: volume(), Force: rapid.Bool().Draw(t, "force")}}
	case 7:
		return &Command{Attach: &Attach{
			Name: volume(), Holder: rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "holder"),
			Takeover: rapid.Bool().Draw(t, "takeover"),
		}}
	case 8:
		v, e := lease()
		if rapid.Bool().Draw(t, "detach") {
			return &Command{Detach: &Detach{Volume: v, Epoch: e}}
		}
		return &Command{PutReport: &PutReport{Volume: v, Epoch: e, Report: Report{
			State: Degraded, Unknown: rapid.Uint64Range(0, 2).Draw(t, "unknown"),
		}, Known: rapid.Uint64Range(0, 9).Draw(t, "known")}}
	case 9, 10:
		return &Command{Heal: &Heal{
			Seed: rapid.Uint64().Draw(t, "seed"), Limit: rapid.SampledFrom([]int{1, 3, 1000}).Draw(t, "limit"),
			Rebuilding: rapid.IntRange(0, 3).Draw(t, "rebuilding"), Moves: rapid.IntRange(0, 5).Draw(t, "moves"),
		}}
	case 11, 12:
		v, e := lease()
		c := &Rebuilt{Volume: v, Epoch: e}
		for range rapid.IntRange(0, 4).Draw(t, "chunks") {
			c.Chunks = append(c.Chunks, raid.ChunkID(rapid.Uint64Range(1, uint64(s.NextChunk)).Draw(t, "chunk")))
		}
		if v := s.Volumes[v]; v != nil && rapid.Bool().Draw(t, "all") {
			c.Chunks = append(c.Chunks, filling(v)...)
		}
		return &Command{Rebuilt: c}
	case 13:
		if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
			return &Command{Rebalance: &Rebalance{
				Threshold: rapid.IntRange(-1, 101).Draw(t, "threshold"), Off: rapid.Bool().Draw(t, "off"),
			}}
		}
		return &Command{Drain: &Drain{ID: server(), Off: rapid.Bool().Draw(t, "off")}}
	default:
		id := server()
		f := &Freed{ID: id, Incarnation: incarnation(id)}
		if sv := s.Servers[id]; sv != nil {
			for c := range sv.Freeing {
				f.Chunks = append(f.Chunks, c)
			}
		}
		return &Command{Freed: f}
	}
}

// TestCommands runs random commands on two replicas. Whatever comes: the
// invariants hold, a refused command changes nothing, ids and epochs only
// grow, memory is not given out twice, failure domains are kept, and the
// replicas, one of which gets the encoded form, stay the same.
func TestCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := New(), New()
		epochs := map[raid.VolumeID]raid.Epoch{}
		versions := map[raid.VolumeID]uint64{}
		groups := map[raid.VolumeID]string{}
		given := map[raid.ChunkID]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			c := drawCommand(t, a)
			c.Now = rapid.Int64Range(0, 1000).Draw(t, "now")
			data, err := c.Encode(level.Highest)
			if err != nil {
				t.Fatal(err)
			}
			copied, err := Decode(data, level.This(""))
			if err != nil {
				t.Fatal(err)
			}
			before, nextV, nextC, members := dump(a), a.NextVolume, a.NextChunk, membersOf(a)
			_, errA := a.Apply(c)
			_, errB := b.Apply(copied)
			if d := cmp.Diff(dump(a), dump(b)); d != "" {
				t.Fatalf("replicas differ after %s:\n%s", data, d)
			}
			if (errA == nil) != (errB == nil) {
				t.Fatalf("one replica refused %s: %v, %v", data, errA, errB)
			}
			if errA != nil {
				if d := cmp.Diff(before, dump(a)); d != "" {
					t.Fatalf("refused (%v), but changed:\n%s", errA, d)
				}
				if errA.Error() == "" || errA.(*Refusal).Code == 0 {
					t.Fatalf("a refusal without reason: %+v", errA)
				}
			}
			if err := a.Check(); err != nil {
				t.Fatalf("after %s: %v", data, err)
			}
			if a.NextVolume < nextV || a.NextChunk < nextC {
				t.Fatal("ids are used again")
			}
			for _, v := range a.Volumes {
				if v.Epoch < epochs[v.ID] {
					t.Fatalf("epoch of volume %d went from %d to %d", v.ID, epochs[v.ID], v.Epoch)
				}
				epochs[v.ID] = v.Epoch
				b, err := json.Marshal(versioned(a, v))
				if err != nil {
					t.Fatal(err)
				}
				now := string(b)
				if was, ok := groups[v.ID]; v.Version < versions[v.ID] || ok && was != now && v.Version == versions[v.ID] {
					t.Fatalf("volume %d changed, version %d before and %d now:\n%s\n%s", v.ID, versions[v.ID], v.Version, was, now)
				}
				versions[v.ID], groups[v.ID] = v.Version, now
			}
			if c.Heal != nil {
				checkHeal(t, a, c.Heal, nextC, members)
			}
			if c.CreateVolume != nil && errA == nil {
				v, _ := a.VolumeByName(c.CreateVolume.Name)
				checkPlacement(t, a, v, given)
			}
		}
	})
}

// checkPlacement looks at a volume that was created this moment.
func checkPlacement(t *rapid.T, s *State, v *Volume, given map[raid.ChunkID]bool) {
	for _, g := range v.Groups {
		for i, m := range g.Members {
			if given[m.Chunk] {
				t.Fatalf("chunk %d is given out again", m.Chunk)
			}
			given[m.Chunk] = true
			sv := s.Servers[m.Server]
			if sv.State != ServerUp {
				t.Fatalf("chunk on server %s, which is %v", m.Server, sv.State)
			}
			if sv.Reserved > sv.MemoryTotal {
				t.Fatalf("server %s: %d of %d bytes promised", m.Server, sv.Reserved, sv.MemoryTotal)
			}
			for _, o := range g.Members[:i] {
				so := s.Servers[o.Server]
				for _, l := range []Level{v.Domain, v.PlacedBy} {
					if sv.domain(l) == so.domain(l) {
						t.Fatalf("servers %s and %s share a %v", sv.ID, so.ID, l)
					}
				}
				if v.Domain != LevelServer && sv.domain(LevelHost) == so.domain(LevelHost) {
					t.Fatalf("servers %s and %s share a host", sv.ID, so.ID)
				}
			}
		}
	}
	if v.Kind == raid.LayoutLog {
		if slots := s.Layout(v, 1, true).DataSlots(); v.Pages*100 > slots*uint64(v.TargetFill) {
			t.Fatalf("%d pages in %d slots are more than %d %%", v.Pages, slots, v.TargetFill)
		}
	}
}

// cluster makes n servers with the memory, each its own host.
func cluster(t *testing.T, n int, memory uint64, label func(i int) map[string]string) *State {
	t.Helper()
	s := New()
	for i := range n {
		c := &Register{ID: raid.ServerID(fmt.Sprintf("s%02d", i)), Incarnation: 1, Addr: "a", MemoryTotal: memory}
		if label != nil {
			c.Labels = label(i)
		}
		must(t, s, &Command{Register: c})
	}
	return s
}

func must(t *testing.T, s *State, c *Command) any {
	t.Helper()
	v, err := s.Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func create(t *testing.T, s *State, c CreateVolume) *Volume {
	t.Helper()
	return s.Volumes[must(t, s, &Command{CreateVolume: &c}).(raid.VolumeID)]
}

func TestCopysetsStayFewAndRolesTurn(t *testing.T) {
	s := cluster(t, 18, 64<<30, nil)
	const pages = 4 << 30 / raid.PageSize
	sets := map[string]bool{}
	data := map[raid.ServerID]int{}
	total := 0
	for i := range 5 {
		v := create(t, s, CreateVolume{Name: fmt.Sprintf("v%d", i), Pages: pages, Geometry: raid.Geometry{K: 4, M: 2}, Seed: uint64(i)})
		for _, g := range v.Groups {
			ids := map[raid.ServerID]bool{}
			for c, m := range g.Members {
				ids[m.Server] = true
				if c < 4 {
					data[m.Server]++
					total++
				}
			}
			sets[fmt.Sprint(ids)] = true
		}
	}
	// Two or three permutations of 18 servers are 6 to 9 combinations; the
	// later volumes bring no more. Random placement would use nearly one a group.
	if len(sets) > 12 {
		t.Errorf("%d combinations of servers", len(sets))
	}
	if len(data) != 18 {
		t.Errorf("only %d of 18 servers hold data", len(data))
	}
	for id, n := range data {
		if n*18 < total/2 || n*18 > total*2 {
			t.Errorf("server %s holds %d of %d data columns", id, n, total)
		}
	}
}

func TestSpreadByTheWidestDomainThatFits(t *testing.T) {
	racks := func(i int) map[string]string {
		return map[string]string{"host": fmt.Sprintf("h%d", i/2), "rack": fmt.Sprintf("r%d", i/4)}
	}
	s := cluster(t, 24, 1<<30, racks) // 12 hosts, 6 racks, no zones
	g := raid.Geometry{K: 4, M: 2}
	if v := create(t, s, CreateVolume{Name: "racks", Pages: 1000, Geometry: g}); v.PlacedBy != LevelRack || v.Domain != LevelHost {
		t.Errorf("spread by %v, asked for %v", v.PlacedBy, v.Domain)
	}
	if v := create(t, s, CreateVolume{Name: "hosts", Pages: 1000, Geometry: raid.Geometry{K: 8, M: 3}}); v.PlacedBy != LevelHost {
		t.Errorf("spread by %v", v.PlacedBy)
	}
	wide := CreateVolume{Name: "wide", Pages: 1000, Geometry: raid.Geometry{K: 12, M: 3}}
	if _, err := s.Apply(&Command{CreateVolume: &wide}); err == nil || err.(*Refusal).Code != TooFewDomains {
		t.Errorf("15 members on 12 hosts: %v", err)
	}
	wide.Domain = LevelServer
	if v := create(t, s, wide); v.PlacedBy != LevelServer {
		t.Errorf("spread by %v", v.PlacedBy)
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		pages  uint64
		g      raid.Geometry
		slots  uint32
		groups uint64
	}{
		{1, raid.Geometry{K: 1}, 256, 1 + 1},
		{1 << 30 / 4096, raid.Geometry{K: 4, M: 2}, 4096, 21 + 1},                // 1 GiB: chunks of 16 MiB; 20 without view rows
		{1 << 40 / 4096, raid.Geometry{K: 4, M: 2}, 16384, 5121 + 1 + 5121/32},   // 1 TiB: chunks of 64 MiB; 5120 likewise
		{4 << 40 / 4096, raid.Geometry{K: 4, M: 2}, 32768, 10241 + 1 + 10241/32}, // 4 TiB: 125,000 chunks of 64 MiB would be too many
		{4 << 40 / 4096, raid.Geometry{K: 1, M: 1}, 131072, 10241 + 1 + 10241/32},
		{1 << 30 / 4096, raid.Geometry{K: 1, M: 2}, 16384, 21 + 1},
		{254 * 80 / 100, raid.Geometry{K: 1, M: 1}, 256, 1 + 1}, // all of a group but its view rows
		{254*80/100 + 1, raid.Geometry{K: 1, M: 1}, 256, 2 + 1},
	} {
		slots, groups := sizeLog(c.pages, c.g, 80, 0)
		if slots != c.slots || groups != c.groups {
			t.Errorf("%d pages %v: %d slots, %d groups, want %d, %d", c.pages, c.g, slots, groups, c.slots, c.groups)
		}
	}
	if n := ChunkBytes(raid.Geometry{K: 4, M: 2}, 256, 5); n != 256*4096+16*4096 { // 256 headers of 248 bytes
		t.Errorf("parity chunk of %d bytes", n)
	}
}

func TestInPlaceLayouts(t *testing.T) {
	s := New()
	for i, gib := range []uint64{1, 2, 5} {
		must(t, s, &Command{Register: &Register{ID: raid.ServerID(fmt.Sprint("s", i)), Incarnation: 1, Addr: "a", MemoryTotal: gib << 30}})
	}
	count := func(v *Volume) (runs []string, per map[raid.ServerID]int) {
		per = map[raid.ServerID]int{}
		for _, g := range v.Groups {
			id := g.Members[0].Server
			if per[id]++; len(runs) == 0 || runs[len(runs)-1] != string(id) {
				runs = append(runs, string(id))
			}
		}
		return runs, per
	}
	linear := create(t, s, CreateVolume{Name: "l", Pages: 1 << 30 / 4096, Geometry: raid.Geometry{K: 1}, Kind: raid.LayoutLinear})
	runs, per := count(linear)
	if d := cmp.Diff([]string{"s0", "s1", "s2"}, runs); d != "" {
		t.Errorf("servers one after another: %s", d)
	}
	if n := len(linear.Groups); per["s0"] < n/10 || per["s0"] > n/6 || per["s2"] < n/2 {
		t.Errorf("shares of %d: %v", n, per)
	}
	striped := create(t, s, CreateVolume{Name: "s", Pages: 1 << 28 / 4096, Geometry: raid.Geometry{K: 1}, Kind: raid.LayoutStriped})
	if _, per := count(striped); per["s0"] != per["s1"] || per["s1"] != per["s2"] || per["s0"] == 0 {
		t.Errorf("equal chunks: %v", per)
	}
}

func TestHealth(t *testing.T) {
	s := cluster(t, 6, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 4, M: 2}})
	v.Unopened = false
	n := uint64(len(v.Groups))
	down := func(i int) {
		must(t, s, &Command{SetServer: &SetServer{ID: raid.ServerID(fmt.Sprintf("s%02d", i)), Incarnation: 1, State: ServerDown}})
	}
	lost := &Report{State: Failed, LostPages: 1, RedundancyLeft: 2}
	some := &Report{State: Degraded, DegradedGroups: 1, RedundancyLeft: 1}
	for i, want := range []Health{
		{State: Healthy, RedundancyLeft: 2}, {State: Degraded, DegradedGroups: n, RedundancyLeft: 1, Since: 1},
		{State: Degraded, DegradedGroups: n, Since: 1}, {State: Failed, DegradedGroups: n, RedundancyLeft: -1, Since: 1},
	} {
		if i > 0 {
			down(i)
		}
		want.Reserved = v.Reserved()
		if got := s.Health(v, nil); got != want {
			t.Errorf("%d servers down: %+v, want %+v", i, got, want)
		}
		if got := s.Health(v, lost); got.State != Failed {
			t.Errorf("%d servers down, pages lost: %+v", i, got)
		}
		if got := s.Health(v, some); got.State == Healthy || got.RedundancyLeft > 1 {
			t.Errorf("%d servers down, client degraded: %+v", i, got)
		}
	}
}

func TestReindexFindsTheSame(t *testing.T) {
	s := cluster(t, 3, 1<<30, nil)
	create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	must(t, s, &Command{Register: &Register{ID: "s01", Incarnation: 2, Addr: "a", MemoryTotal: 1 << 30}})
	before := New()
	*before = *s
	again := *s
	again.byName, again.chunks = map[string]raid.VolumeID{}, map[raid.ChunkID]ChunkRef{}
	again.Reindex()
	if d := cmp.Diff(before, &again, cmp.AllowUnexported(State{}), cmpopts.IgnoreFields(State{}, "touched", "index")); d != "" {
		t.Error(d)
	}
	if err := again.Check(); err != nil {
		t.Error(err)
	}
}

func TestRepeatedCreateGivesTheSame(t *testing.T) {
	s := cluster(t, 3, 1<<30, nil)
	c := CreateVolume{Name: "v", Request: "r1", Pages: 1000, Geometry: raid.Geometry{K: 1}}
	v := create(t, s, c)
	if again := create(t, s, c); again != v {
		t.Error("another volume")
	}
	c.Request = "r2"
	if _, err := s.Apply(&Command{CreateVolume: &c}); err == nil || err.(*Refusal).Code != Exists {
		t.Errorf("another request for the name: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"init":{"cluster":"c"}}`, `{"attach":{"name":"v","holder":"h"}}`, `{}`, `{"init":{},"detach":{}}`,
		`{"create_volume":{"name":"v","pages":1,"geometry":{"K":1,"M":0}}}`, `{"freed":{"id":"s","chunks":[1]}} x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b, level.This(""))
		if err != nil {
			return
		}
		if c.CreateVolume != nil && c.CreateVolume.Pages > 1<<24 {
			return // time, not truth
		}
		s := New()
		if _, err := s.Apply(c); err == nil {
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
		}
		again, err := c.Encode(level.Highest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(again, level.This("")); err != nil {
			t.Fatalf("%s does not come back: %v", again, err)
		}
	})
}
