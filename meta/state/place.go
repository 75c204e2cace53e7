package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"dmps/raid"
)

// Placement decides which servers lend the chunks of a volume's groups.
//
//  1. Failure domains: the members of a group never share one. The level asked
//     for is the least; when the servers make it possible for the whole
//     volume, groups are spread by a coarser one.
//  2. Copysets (Cidon et al., USENIX ATC 2013): groups use few distinct
//     combinations of servers, those that are in use already first, so that
//     the simultaneous loss of M+1 servers rarely hits all of a combination.
//  3. Free memory: of two combinations drawn at random, the one whose fullest
//     server has more left (the power of two choices).

// scatter is with how many others a server should share groups, so that many
// take part in a rebuild: copysets enough for that, not more.
const scatter = 10

// candidate is a server that can take chunks, during one placement.
type candidate struct {
	*Server
	free uint64
}

// copyset is a combination of servers: indexes of candidates, ascending.
type copyset []int

func (c copyset) key() string { return fmt.Sprint([]int(c)) }

// placement is one try to place a volume's groups at one level.
type placement struct {
	cands   []candidate
	members int                  // of a group
	ask, by Level                //
	need    func(col int) uint64 // bytes of a chunk of a column
	most    uint64               // bytes of the largest chunk
	rng     random
	sets    []copyset
	used    map[string]int // groups placed so far by copyset: the turn of roles
	known   map[string]bool
}

// candidates lists the servers that get new chunks, by id.
func (s *State) candidates() []candidate {
	var out []candidate
	for _, sv := range s.SortedServers() {
		if sv.State == ServerUp && !sv.emptying() {
			out = append(out, candidate{Server: sv, free: sv.Free()})
		}
	}
	return out
}

// placeLog chooses the servers of every group of a log: the result's [g][c] is
// the server of column c of group g.
func (s *State) placeLog(c *CreateVolume, slots uint32, groups int) ([][]raid.ServerID, Level, *Refusal) {
	members := c.Geometry.Members()
	cands := s.candidates()
	if n := distinct(cands, c.Domain); n < members {
		return nil, 0, s.tooFewDomains(c, cands, n)
	}
	best := 0 // groups placed by the best try
	for _, by := range c.Domain.wider() {
		if distinct(cands, by) < members || members == 1 && by != c.Domain {
			continue
		}
		p := &placement{
			cands: slices.Clone(cands), members: members, ask: c.Domain, by: by,
			need: func(col int) uint64 { return ChunkBytes(c.Geometry, slots, raid.Col(col)) },
			rng:  random(c.Seed), used: map[string]int{}, known: map[string]bool{},
		}
		for col := range members {
			p.most = max(p.most, p.need(col))
		}
		p.addKnown(s)
		p.addNew()
		placed := p.groups(groups)
		if len(placed) == groups {
			return placed, by, nil
		}
		best = max(best, len(placed))
	}
	return nil, 0, s.noSpace(c, cands, groups, best, groupBytes(c.Geometry, slots))
}

// addKnown takes the combinations that other volumes use and that fit.
func (p *placement) addKnown(s *State) {
	index := make(map[raid.ServerID]int, len(p.cands))
	for i, c := range p.cands {
		index[c.ID] = i
	}
	for _, v := range s.SortedVolumes() {
		if v.Geometry.Members() != p.members {
			continue
		}
		for _, g := range v.Groups {
			set := make(copyset, 0, p.members)
			for _, m := range g.Members {
				i, ok := index[m.Server]
				if !ok || !p.fits(set, i) {
					break
				}
				set = append(set, i)
			}
			if len(set) == p.members {
				p.add(set)
			}
		}
	}
}

// fits reports whether candidate i is apart from all of set.
func (p *placement) fits(set copyset, i int) bool {
	for _, j := range set {
		if !apart(p.cands[i].Server, p.cands[j].Server, p.ask, p.by) {
			return false
		}
	}
	return true
}

func (p *placement) add(set copyset) {
	slices.Sort(set)
	if k := set.key(); !p.known[k] {
		p.known[k] = true
		p.sets = append(p.sets, set)
	}
}

// addNew cuts permutations of the servers into combinations, until every
// server is in enough of them or the permutations bring nothing new.
func (p *placement) addNew() {
	want := 1
	if p.members > 1 {
		want = max(2, (scatter+p.members-2)/(p.members-1))
	}
	for range want {
		cover := make([]int, len(p.cands))
		for _, set := range p.sets {
			for _, i := range set {
				cover[i]++
			}
		}
		var order []int
		for i := range p.cands {
			if cover[i] < want {
				order = append(order, i)
			}
		}
		shuffle(&p.rng, order)
		for len(order) > 0 {
			set := copyset{order[0]}
			order = order[1:]
			order = slices.DeleteFunc(order, func(i int) bool {
				if len(set) == p.members || !p.fits(set, i) {
					return false
				}
				set = append(set, i)
				return true
			})
			p.complete(&set, cover)
			for _, i := range set {
				cover[i]++
			}
			if len(set) == p.members {
				p.add(set)
			}
		}
	}
}

// complete fills a combination with the servers that are in the fewest.
func (p *placement) complete(set *copyset, cover []int) {
	if len(*set) == p.members {
		return
	}
	order := make([]int, len(p.cands))
	for i := range order {
		order[i] = i
	}
	shuffle(&p.rng, order)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(cover[a], cover[b]) })
	for _, i := range order {
		if len(*set) < p.members && p.fits(*set, i) {
			*set = append(*set, i)
		}
	}
}

// groups places up to n groups, fewer when no combination has the memory.
func (p *placement) groups(n int) [][]raid.ServerID {
	out := make([][]raid.ServerID, 0, n)
	open := slices.Clone(p.sets) // combinations with room for one more group
	for len(out) < n {
		set := p.choose(&open)
		if set == nil {
			break
		}
		// The roles move on from group to group of one combination, so that
		// every server holds data as often as the others.
		turn := p.used[set.key()]
		p.used[set.key()]++
		group := make([]raid.ServerID, p.members)
		for i, at := range set {
			col := (i + turn) % p.members
			group[col] = p.cands[at].ID
			p.cands[at].free -= p.need(col)
		}
		out = append(out, group)
	}
	return out
}

// choose draws two combinations and takes the one with more room; when none
// of the known ones has any, it makes one of the emptiest servers.
func (p *placement) choose(open *[]copyset) copyset {
	draw := func() copyset {
		for len(*open) > 0 {
			i := p.rng.below(len(*open))
			if set := (*open)[i]; p.room(set) >= p.most {
				return set
			}
			*open = slices.Delete(*open, i, i+1)
		}
		return nil
	}
	a, b := draw(), draw()
	switch {
	case a != nil && p.room(b) > p.room(a):
		return b
	case a != nil:
		return a
	}
	set := p.emptiest()
	if set != nil {
		p.add(set)
		*open = append(*open, set)
	}
	return set
}

// room is the free memory of a combination's fullest server.
func (p *placement) room(set copyset) uint64 {
	least := p.cands[set[0]].free
	for _, i := range set[1:] {
		least = min(least, p.cands[i].free)
	}
	return least
}

// emptiest makes a combination of the servers with the most free memory.
func (p *placement) emptiest() copyset {
	order := make([]int, len(p.cands))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.cands[b].free, p.cands[a].free) })
	var set copyset
	for _, i := range order {
		if len(set) < p.members && p.cands[i].free >= p.most && p.fits(set, i) {
			set = append(set, i)
		}
	}
	if len(set) < p.members {
		return nil
	}
	slices.Sort(set)
	return set
}

// distinct counts the failure domains of a level. A volume that asks for more
// than a host still needs as many hosts, which more domains of a coarser
// level imply unless one host is labelled into two of them.
func distinct(cands []candidate, l Level) int {
	seen := map[string]bool{}
	for _, c := range cands {
		seen[c.domain(l)] = true
	}
	return len(seen)
}

func (s *State) tooFewDomains(c *CreateVolume, up []candidate, have int) *Refusal {
	r := refuse(TooFewDomains, "volume %s: redundancy %v needs servers in %d different failure domains (%v), and the %d servers that are up are in %d",
		c.Name, c.Geometry, c.Geometry.Members(), c.Domain, len(up), have)
	if away := len(s.Servers) - len(up); away > 0 {
		r.Message += fmt.Sprintf("; %d more are not up", away)
	}
	switch {
	case c.Domain == LevelServer || len(up) < c.Geometry.Members():
		r.Message += ": start more servers or ask for less redundancy"
	default:
		r.Message += ": start servers elsewhere, ask for less redundancy, or name a finer failure domain (--failure-domain server lets members share a host)"
	}
	return r
}

func (s *State) noSpace(c *CreateVolume, up []candidate, groups, placed int, bytes uint64) *Refusal {
	need := uint64(groups) * bytes
	missing := uint64(groups-placed) * bytes
	var free, freeing uint64
	for _, sv := range up {
		free += sv.Free()
		for _, n := range sv.Freeing {
			freeing += n
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "volume %s does not fit: it needs %s of server memory, redundancy, headers and spare rows included; ", c.Name, size(need))
	if free < need {
		missing = need - free
	}
	fmt.Fprintf(&b, "%s of %s is free on the servers that are up; %s is missing", size(free), size(capacity(up)), size(missing))
	if free >= need {
		fmt.Fprintf(&b, " where a member may lie: the free memory is on too few servers (failure domain %v)", c.Domain)
	}
	if freeing > 0 {
		fmt.Fprintf(&b, "; %s of deleted volumes is being given back, try again in some seconds", size(freeing))
	}
	r := refuse(NoSpace, "%s", b.String())
	r.Missing = missing
	return r
}

func capacity(up []candidate) uint64 {
	var n uint64
	for _, sv := range up {
		n += sv.MemoryTotal
	}
	return n
}

// size writes bytes for people.
func size(n uint64) string {
	for _, u := range []struct {
		name  string
		shift uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if n >= 1<<u.shift {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(uint64(1)<<u.shift)), ".0") + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", n)
}
