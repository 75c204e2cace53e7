package state

import (
	"cmp"
	"encoding/binary"
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
//     combinations of servers, those that groups were placed on already first, so
//     that the simultaneous loss of M+1 servers rarely hits all of a combination.
//     What repairs made of them is not learned from.
//  3. Span: a volume uses so many combinations as its size is worth, so that its
//     client has few sessions.
//  4. Free memory: of two combinations drawn at random, the one whose fullest
//     server has the larger share left (the power of two choices).

const (
	// scatter is with how many others a server should share groups, so that many
	// take part in a rebuild: copysets enough for that, not more.
	scatter = 10
	// mostCopysets is in how many times as many copysets as others the largest
	// servers are.
	mostCopysets = 4

	minSpan    = 8  // copysets of a volume that has as many groups
	spanServer = 48 // servers that the copysets of a volume have at least, counted for each copyset
	spanGroups = 64 // groups of a volume for each copyset, when that gives more
)

// span is how many copysets a volume is placed on while these have room.
func span(members, groups int) int {
	return min(groups, max(minSpan, (spanServer+members-1)/members, groups/spanGroups))
}

// site is the failure domains of a server as numbers, by Level. Only those of one
// list (sites) can be compared.
type site [len(levelNames)]int32

// apart is what the function of that name says of servers.
func (a *site) apart(b *site, ask, by Level) bool {
	if a[LevelServer] == b[LevelServer] || ask != LevelServer && a[LevelHost] == b[LevelHost] {
		return false
	}
	return a[ask] != b[ask] && a[by] != b[by]
}

// candidate is a server that can take chunks, during one placement.
type candidate struct {
	*Server
	free uint64
	site site
}

// share is the part of its memory that is free.
func (c *candidate) share() float64 { return float64(c.free) / float64(max(c.MemoryTotal, 1)) }

// combination is a copyset of candidates, during one placement.
type combination struct {
	at    []int           // indexes of candidates, ascending by id as these are
	homes []raid.ServerID // the servers for which these are, one each; nil: themselves
	turn  int             // of the roles: it moves on from group to group
}

// placement is one try to place a volume's groups at one level.
type placement struct {
	pick    *picker
	cands   []candidate          // pick's, as far as they are filled
	members int                  // of a group
	ask, by Level                //
	need    func(col int) uint64 // bytes of a chunk of a column
	most    uint64               // bytes of the largest chunk
	rng     random
	sets    []*combination
	known   map[string]bool // keys of sets
	cover   []int           // combinations, by candidate
}

// sites numbers the failure domains of all servers, by id.
func (s *State) sites() []candidate {
	var seen [len(levelNames)]map[string]int32
	for l := range seen {
		seen[l] = map[string]int32{}
	}
	out := make([]candidate, 0, len(s.Servers))
	for _, sv := range s.SortedServers() {
		c := candidate{Server: sv, free: sv.Free()}
		for l := range seen {
			name := sv.domain(Level(l))
			n, ok := seen[l][name]
			if !ok {
				n = int32(len(seen[l]))
				seen[l][name] = n
			}
			c.site[l] = n
		}
		out = append(out, c)
	}
	return out
}

// takes reports whether the server gets new chunks.
func (s *Server) takes() bool { return s.State == ServerUp && !s.emptying() }

// takingNone counts the servers that get no new chunks, by why; "": all do.
func (s *State) takingNone() string {
	var away, drain, short int
	for _, sv := range s.Servers {
		switch {
		case sv.State != ServerUp:
			away++
		case sv.Draining:
			drain++
		case !sv.takes():
			short++
		}
	}
	var why []string
	for _, c := range []struct {
		n    int
		text string
	}{{away, "not up"}, {drain, "being drained"}, {short, "short of memory"}} {
		if c.n > 0 {
			why = append(why, fmt.Sprintf("%d %s", c.n, c.text))
		}
	}
	return strings.Join(why, ", ")
}

// candidates lists the servers that get new chunks, by id.
func (s *State) candidates() []candidate {
	return slices.DeleteFunc(s.sites(), func(c candidate) bool { return !c.takes() })
}

// placeLog chooses the servers of every group of a log: the result's [g][c] is
// the server of column c of group g, and the one that it stands in for.
func (s *State) placeLog(c *CreateVolume, slots uint32, groups int) ([][]Member, Level, *Refusal) {
	members := c.Geometry.Members()
	pick := newPicker(s)
	pick.ready()
	cands := pick.cands
	if n := distinct(cands, c.Domain); n < members {
		return nil, 0, s.tooFewDomains(c, cands, n)
	}
	best := 0 // groups placed by the best try
	for _, by := range c.Domain.wider() {
		if distinct(cands, by) < members || members == 1 && by != c.Domain {
			continue
		}
		p := &placement{
			pick: pick, cands: slices.Clone(cands), members: members, ask: c.Domain, by: by,
			need: func(col int) uint64 { return ChunkBytes(c.Geometry, slots, raid.Col(col)) },
			rng:  random(c.Seed), known: map[string]bool{}, cover: make([]int, len(cands)),
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

// addKnown takes the combinations that other volumes were placed on and that fit. For
// servers that are away others stand in, as in groups that are healed: else every
// loss would bring new combinations.
func (p *placement) addKnown(s *State) {
	for _, known := range s.index.home.sorted() {
		if len(known.servers) != p.members {
			continue
		}
		set := make([]int, 0, p.members)
		fits, away := p.homesFit(known.servers), false
		for _, id := range known.servers {
			i, ok := p.pick.byID[id]
			away = away || !ok
			if ok {
				set = append(set, i)
			}
		}
		switch {
		case !fits:
		case !away:
			p.add(set)
		default:
			p.standIn(known.servers, set)
		}
	}
}

// homesFit reports whether servers are apart from each other, those too that are away: who
// stands in for one could not go home else. Of those that were removed nothing is known.
func (p *placement) homesFit(servers []raid.ServerID) bool {
	for i, id := range servers {
		at, ok := p.pick.sites[id]
		for _, other := range servers[:i] {
			if o, there := p.pick.sites[other]; ok && there && !at.apart(&o, p.ask, p.by) {
				return false
			}
		}
	}
	return true
}

// standIn takes a combination of which only the set is there.
func (p *placement) standIn(servers []raid.ServerID, set []int) {
	key := setKey(slices.Clone(servers))
	at := make([]int, 0, len(servers))
	for _, id := range servers {
		i, ok := p.pick.byID[id]
		if !ok {
			order := p.pick.order(post{set: key, server: id})
			n := slices.IndexFunc(order, func(i int) bool {
				return p.cands[i].free >= p.most && p.fits(set, i)
			})
			if n < 0 {
				return
			}
			i = order[n]
			set = append(set, i)
		}
		at = append(at, i)
	}
	if c := p.add(set); c != nil {
		c.at, c.homes = at, servers
	}
	for n, id := range servers {
		if p.cands[at[n]].ID != id {
			p.cover[at[n]]-- // it is not at home there
		}
	}
}

// fits reports whether candidate i is apart from all of set.
func (p *placement) fits(set []int, i int) bool {
	for _, j := range set {
		if !p.cands[i].site.apart(&p.cands[j].site, p.ask, p.by) {
			return false
		}
	}
	return true
}

// add takes a combination; nil: it has it already.
func (p *placement) add(set []int) *combination {
	slices.Sort(set)
	key := make([]byte, 0, 4*len(set))
	for _, i := range set {
		key = binary.LittleEndian.AppendUint32(key, uint32(i))
		p.cover[i]++
	}
	if p.known[string(key)] {
		return nil
	}
	p.known[string(key)] = true
	c := &combination{at: set, turn: p.rng.below(p.members)}
	p.sets = append(p.sets, c)
	return c
}

// wants is in how many combinations each server should be: by its memory, so that
// the small ones are not full while the large ones are empty.
func (p *placement) wants() []int {
	base := 1
	if p.members > 1 {
		base = max(2, (scatter+p.members-2)/(p.members-1))
	}
	wants := make([]int, len(p.cands))
	mean := max(capacity(p.cands)/uint64(max(len(p.cands), 1)), 1)
	for i, c := range p.cands {
		n := (c.MemoryTotal*uint64(base) + mean/2) / mean
		wants[i] = int(min(max(n, 1), uint64(mostCopysets*base)))
		if p.members == 1 {
			wants[i] = 1
		}
	}
	return wants
}

// addNew cuts permutations of the servers into combinations, until every
// server is in enough of them or the permutations bring nothing new.
func (p *placement) addNew() {
	wants := p.wants()
	for range slices.Max(wants) {
		var order []int
		for i, n := range wants {
			if p.cover[i] < n {
				order = append(order, i)
			}
		}
		shuffle(&p.rng, order)
		for len(order) > 0 {
			set := []int{order[0]}
			order = order[1:]
			order = slices.DeleteFunc(order, func(i int) bool {
				if len(set) == p.members || !p.fits(set, i) {
					return false
				}
				set = append(set, i)
				return true
			})
			// Few that are left over wait for more servers to come, as long as each of
			// them is in some combination.
			if 2*len(set) >= p.members || slices.ContainsFunc(set, func(i int) bool { return p.cover[i] == 0 }) {
				p.complete(&set)
			}
			if len(set) == p.members {
				p.add(set)
			}
		}
	}
}

// complete fills a combination with the servers that are in the fewest.
func (p *placement) complete(set *[]int) {
	if len(*set) == p.members {
		return
	}
	order := make([]int, len(p.cands))
	for i := range order {
		order[i] = i
	}
	shuffle(&p.rng, order)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.cover[a], p.cover[b]) })
	for _, i := range order {
		if len(*set) < p.members && p.fits(*set, i) {
			*set = append(*set, i)
		}
	}
}

// groups places up to n groups, fewer when no combination has the memory.
func (p *placement) groups(n int) [][]Member {
	out := make([][]Member, 0, n)
	rest := slices.Clone(p.sets) // combinations that the volume does not use yet
	var open []*combination      // that it uses, and that have room
	more := func() bool {
		set := p.draw(&rest)
		if set == nil {
			if set = p.emptiest(); set == nil {
				return false
			}
		}
		rest = slices.DeleteFunc(rest, func(c *combination) bool { return c == set })
		open = append(open, set)
		return true
	}
	for range min(span(p.members, n), len(p.sets)) {
		if !more() {
			break
		}
	}
	for len(out) < n {
		set := p.draw(&open)
		if set == nil {
			if !more() {
				break
			}
			continue
		}
		// The roles move on from group to group of one combination, so that
		// every server holds data as often as the others.
		group := make([]Member, p.members)
		for i, at := range set.at {
			col := (i + set.turn) % p.members
			group[col].Server = p.cands[at].ID
			if set.homes != nil {
				group[col].belongs(set.homes[i])
			}
			p.cands[at].free -= p.need(col)
		}
		set.turn++
		out = append(out, group)
	}
	return out
}

// draw takes two combinations at random and gives the one with more room; those
// without any leave the list.
func (p *placement) draw(open *[]*combination) (best *combination) {
	for draws := 2; draws > 0 && len(*open) > 0; {
		i := p.rng.below(len(*open))
		set := (*open)[i]
		if !p.roomy(set.at) {
			*open = slices.Delete(*open, i, i+1)
			continue
		}
		draws--
		if best == nil || p.room(set.at) > p.room(best.at) {
			best = set
		}
	}
	return best
}

// roomy reports whether all of a combination have the memory for one more group.
func (p *placement) roomy(set []int) bool {
	return !slices.ContainsFunc(set, func(i int) bool { return p.cands[i].free < p.most })
}

// room is the share of its memory that a combination's fullest server has free.
func (p *placement) room(set []int) float64 {
	least := 1.0
	for _, i := range set {
		least = min(least, p.cands[i].share())
	}
	return least
}

// emptiest makes a combination of the servers with the largest share of free memory.
func (p *placement) emptiest() *combination {
	order := make([]int, len(p.cands))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.cands[b].share(), p.cands[a].share()) })
	var set []int
	for _, i := range order {
		if len(set) < p.members && p.cands[i].free >= p.most && p.fits(set, i) {
			set = append(set, i)
		}
	}
	if len(set) < p.members {
		return nil
	}
	return p.add(set)
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
	r := refuse(TooFewDomains, "volume %s: redundancy %v needs servers in %d different failure domains (%v), and the %d servers that take chunks are in %d",
		c.Name, c.Geometry, c.Geometry.Members(), c.Domain, len(up), have)
	if others := s.takingNone(); others != "" {
		r.Message += "; of the others " + others
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
