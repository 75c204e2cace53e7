package state

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"dmps/raid"
)

var wholePlacement = flag.Bool("placement.all", false, "simulate all sizes of clusters, and print the table of docs/benchmarks.md")

// sim is a cluster under the real placement. Its volumes are never opened, so that
// members are whole at once.
type sim struct {
	t     testing.TB
	s     *State
	geo   raid.Geometry
	lives map[raid.ServerID]raid.Incarnation
	born  int // servers
	made  int // volumes
}

func newSim(t testing.TB, servers int, geo raid.Geometry) *sim {
	m := &sim{t: t, s: New(), geo: geo, lives: map[raid.ServerID]raid.Incarnation{}}
	for range servers {
		m.join()
	}
	return m
}

func (m *sim) do(c Command) any {
	m.t.Helper()
	v, err := m.s.Apply(&c)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

const simMemory = 64 << 30

func (m *sim) join() {
	m.born++
	m.up(raid.ServerID(fmt.Sprintf("s%04d", m.born)))
}

func (m *sim) up(id raid.ServerID) {
	m.lives[id]++
	m.do(Command{Register: &Register{ID: id, Incarnation: m.lives[id], Addr: "a", MemoryTotal: simMemory}})
}

// fill makes volumes of 128 groups and some until servers have so many members.
func (m *sim) fill(members int) {
	for m.total() < members*len(m.s.Servers) {
		m.create()
	}
}

func (m *sim) total() (n int) {
	for _, sv := range m.s.Servers {
		n += int(sv.Chunks)
	}
	return n
}

func (m *sim) create() {
	m.made++
	pages := uint64(128*m.geo.K*maxAutoSlots) * defaultFill / 100
	m.do(Command{CreateVolume: &CreateVolume{Name: fmt.Sprint("v", m.made), Pages: pages, Geometry: m.geo, ChunkSlots: maxAutoSlots, Seed: uint64(m.made)}})
}

// churn deletes the oldest volume and makes a new one.
func (m *sim) churn() {
	m.do(Command{DeleteVolume: &DeleteVolume{Name: m.s.SortedVolumes()[0].Name}})
	m.free()
	m.create()
}

// free lets servers give back what is to be given back.
func (m *sim) free() {
	for _, sv := range m.s.SortedServers() {
		m.do(Command{Freed: &Freed{ID: sv.ID, Incarnation: sv.Incarnation, Chunks: slices.Collect(maps.Keys(sv.Freeing))}})
	}
}

// heal lets healing come to its end.
func (m *sim) heal() {
	for {
		c := &Heal{Limit: 1024, Moves: 16}
		if !m.s.WouldHeal(c) {
			return
		}
		m.do(Command{Heal: c})
		m.free()
	}
}

func (m *sim) fail(id raid.ServerID) {
	m.do(Command{SetServer: &SetServer{ID: id, Incarnation: m.lives[id], State: ServerDown}})
	m.heal()
}

// sets lists the combinations in use, as indexes of servers.
func (m *sim) sets() (out [][]int) {
	index := map[raid.ServerID]int{}
	for i, sv := range m.s.SortedServers() {
		index[sv.ID] = i
	}
	for _, set := range m.s.index.live.sorted() {
		at := make([]int, 0, len(set.servers))
		for _, id := range set.servers {
			at = append(at, index[id])
		}
		out = append(out, at)
	}
	return out
}

// loss draws failures of servers and counts those that some combination does not survive.
func loss(sets [][]int, servers, failed, spare, draws int) float64 {
	in := make([][]int, servers)
	for i, set := range sets {
		for _, sv := range set {
			in[sv] = append(in[sv], i)
		}
	}
	rng := random(1)
	order := make([]int, servers)
	for i := range order {
		order[i] = i
	}
	hit, stamp := make([]int, len(sets)), make([]int, len(sets))
	lost := 0
draws:
	for n := range draws {
		for i := range failed {
			j := i + rng.below(servers-i)
			order[i], order[j] = order[j], order[i]
			for _, set := range in[order[i]] {
				if stamp[set] != n+1 {
					stamp[set], hit[set] = n+1, 0
				}
				if hit[set]++; hit[set] > spare {
					lost++
					continue draws
				}
			}
		}
	}
	return float64(lost) / float64(draws)
}

// distinctSets drops what is there twice.
func distinctSets(sets [][]int) (out [][]int) {
	seen := map[string]bool{}
	for _, set := range sets {
		slices.Sort(set)
		if k := fmt.Sprint(set); !seen[k] {
			seen[k] = true
			out = append(out, set)
		}
	}
	return out
}

// randomSets places each group on servers drawn at random.
func randomSets(groups, servers, members int) (out [][]int) {
	rng := random(2)
	for range groups {
		order := make([]int, servers)
		for i := range order {
			order[i] = i
		}
		for i := range members {
			j := i + rng.below(servers-i)
			order[i], order[j] = order[j], order[i]
		}
		out = append(out, order[:members:members])
	}
	return distinctSets(out)
}

// codingSets is the placement of Hydra (Lee et al., FAST 2022): servers are cut once
// into sets of two more than a group has members, and a group lies in one of these.
func codingSets(groups, servers, members int) (out [][]int) {
	rng := random(3)
	order := make([]int, servers)
	for i := range order {
		order[i] = i
	}
	shuffle(&rng, order)
	extended := slices.Collect(slices.Chunk(order, members+2))
	if len(extended) > 1 && len(extended[len(extended)-1]) < members {
		extended = extended[:len(extended)-1]
	}
	for range groups {
		set := slices.Clone(extended[rng.below(len(extended))])
		shuffle(&rng, set)
		out = append(out, set[:members:members])
	}
	return distinctSets(out)
}

// course is what one cluster goes through.
type course struct {
	servers, failed int
	geo             raid.Geometry
	members         int // a server
}

// row is what came of it: probabilities of a loss.
type row struct {
	sets, later              int
	fresh, one, five, twenty float64 // healed failures, after which the server came back empty
	away, replaced           float64 // twenty servers that stay away; that are removed, and new ones join
	randomly, coding         float64
	formula, counted         float64 // of State.Copysets, and by drawing
}

func (c course) run(t testing.TB, draws int) row {
	measure := func(m *sim) float64 {
		if err := m.s.Check(); err != nil {
			t.Fatal(err)
		}
		return loss(m.sets(), len(m.s.Servers), c.failed, c.geo.M, draws)
	}
	m := newSim(t, c.servers, c.geo)
	m.fill(c.members)
	groups := m.total() / c.geo.Members()
	r := row{sets: len(m.sets()), fresh: measure(m)}
	said := m.s.Copysets()
	r.formula, r.counted = said.Loss, loss(m.sets(), c.servers, said.Failures, c.geo.M, 5*draws)
	victims := func(n int) []raid.ServerID {
		ids := slices.Sorted(maps.Keys(m.s.Servers))
		rng := random(4)
		shuffle(&rng, ids)
		return ids[:min(n, len(ids))]
	}
	for i, id := range victims(20) {
		m.fail(id)
		m.churn() // volumes come and go meanwhile
		m.up(id)
		m.heal()
		switch i + 1 {
		case 1:
			r.one = measure(m)
		case 5:
			r.five = measure(m)
		case 20:
			r.twenty, r.later = measure(m), len(m.sets())
		}
	}
	for _, id := range victims(20) {
		m.fail(id)
		m.do(Command{RemoveServer: &RemoveServer{ID: id, Force: true}})
		m.join()
		m.heal()
	}
	r.replaced = measure(m)
	for _, id := range victims(min(20, c.servers/5)) {
		m.fail(id)
	}
	r.away = measure(m)
	r.randomly = loss(randomSets(groups, c.servers, c.geo.Members()), c.servers, c.failed, c.geo.M, draws)
	r.coding = loss(codingSets(groups, c.servers, c.geo.Members()), c.servers, c.failed, c.geo.M, draws)
	return r
}

// TestCopysetsSurviveRepairs: what repairs do to the copysets passes. make placement
// does it with clusters of other sizes, and prints the table of docs/benchmarks.md.
func TestCopysetsSurviveRepairs(t *testing.T) {
	small, wide := raid.Geometry{K: 4, M: 2}, raid.Geometry{K: 8, M: 2}
	courses, draws := []course{{100, 4, small, 60}, {200, 4, wide, 60}}, 20000
	if *wholePlacement {
		courses, draws = nil, 100000
		for _, geo := range []raid.Geometry{small, wide} {
			for n, failed := range map[int]int{24: 3, 100: 4, 200: 4, 1000: 10} {
				courses = append(courses, course{n, failed, geo, 516})
			}
		}
		slices.SortStableFunc(courses, func(a, b course) int { return 100000*(a.geo.K-b.geo.K) + a.servers - b.servers })
	}
	var b strings.Builder
	percent := func(p ...float64) {
		for _, p := range p {
			fmt.Fprintf(&b, " %.2f %% |", 100*p)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n| servers, redundancy | fail at once | copysets | after 20 | fresh | 1 repair | 5 | 20 | 20 replaced | 20 more away | random | CodingSets |\n")
	for _, c := range courses {
		r := c.run(t, draws)
		fmt.Fprintf(&b, "| %d, %v | %d | %d | %d |", c.servers, c.geo, c.failed, r.sets, r.later)
		percent(r.fresh, r.one, r.five, r.twenty, r.replaced, r.away, r.randomly, r.coding)
		for _, after := range []float64{r.one, r.five, r.twenty, r.replaced} {
			if after > 1.5*r.fresh {
				t.Errorf("%d servers, %v: a loss with %d servers failed has a probability of %.4f, and %.4f at first", c.servers, c.geo, c.failed, after, r.fresh)
			}
		}
		if r.fresh > 1.5*r.coding {
			t.Errorf("%d servers, %v: at first %.4f, CodingSets %.4f", c.servers, c.geo, r.fresh, r.coding)
		}
		if r.formula > 1.2*r.counted || r.formula < r.counted/1.2 {
			t.Errorf("%d servers, %v: status says %.4f, by drawing it is %.4f", c.servers, c.geo, r.formula, r.counted)
		}
	}
	t.Log(b.String())
}
