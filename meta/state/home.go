package state

import (
	"maps"
	"slices"

	"dmps/raid"
)

// Members go home when nothing is to be healed: those that stand in for a server move
// to it once it is there again. For a server that was removed another one is chosen in
// its place, one for all groups of a copyset, and they move there. So what repairs did
// to the copysets passes. It takes half of the moves at once at most, so that draining
// goes on meanwhile.

// toGoHome reports whether members may have to go home, or may have lost theirs.
func (s *State) toGoHome() bool {
	for id := range s.index.away {
		if sv := s.Servers[id]; sv == nil || sv.takes() {
			return true
		}
	}
	return false
}

func (p *healing) homecoming() {
	if len(p.steps) > 0 || p.more {
		return
	}
	away := p.s.index.away
	for _, id := range slices.Sorted(maps.Keys(away)) {
		sv := p.s.Servers[id]
		if sv != nil && (!sv.takes() || slices.Contains(p.pick.full, id)) {
			continue
		}
		p.pick.ready()
		for _, k := range sortedKeys(away[id]) {
			v := p.s.Volumes[k.Volume]
			group := v.Groups[k.Group]
			for col, m := range group.Members {
				switch {
				case m.Home != id || m.State == raid.MemberLost:
				case sv == nil:
					p.inherit(v, int(k.Group), col)
				default:
					p.goHome(v, int(k.Group), col)
				}
			}
			if p.more {
				return
			}
		}
	}
}

func sortedKeys(m map[GroupKey]struct{}) []GroupKey {
	return slices.SortedFunc(maps.Keys(m), GroupKey.Compare)
}

// goHome plans the move of a member to the server where it belongs.
func (p *healing) goHome(v *Volume, g, col int) {
	group := v.Groups[g]
	_, pending := group.pending(col)
	fresh := v.fresh()
	switch {
	case pending || !group.whole() || slices.ContainsFunc(group.Members, p.missing):
		return
	case v.Kind != raid.LayoutLog && !fresh:
		return
	case !fresh && v.Lease == nil:
		return // nobody would fill it, and others wait for their turn
	case !fresh && (p.moves >= (p.c.Moves+1)/2 || p.c.Rebuilding > 0 && p.filling[v.ID] >= p.c.Rebuilding):
		return // its turn comes
	}
	home := group.Members[col].Home
	c := &p.pick.cands[p.pick.byID[home]]
	bytes := v.chunkBytes(col)
	if c.free < bytes {
		return
	}
	seats := p.seatsOf(group)
	by := v.Aim
	if !p.pick.seatable(v, seats, col, home, by, false) {
		by = v.PlacedBy // others have to go home first, or labels have changed
		if !p.pick.seatable(v, seats, col, home, by, false) {
			return
		}
	}
	if !p.add(step{v: v, group: g, col: col, kind: stepMove, to: home, by: by}) {
		return
	}
	c.free -= bytes
	seats.pending[col] = home
	if !fresh {
		p.filling[v.ID]++
		p.moves++
	}
}

// inherit plans that a member belongs elsewhere from now on: its server was removed.
func (p *healing) inherit(v *Volume, g, col int) {
	seats := p.seatsOf(v.Groups[g])
	heir, ok := p.heir(v, seats, col)
	if !ok {
		return
	}
	if p.add(step{v: v, group: g, col: col, kind: stepInherit, to: heir}) {
		seats.homes[col] = heir // of two that were removed each gets its own
		seats.set = setKey(slices.Clone(seats.homes))
	}
}

// estate is a copyset, and its server that was removed.
type estate struct {
	post
	ask, by Level
}

// heir gives the server that takes a removed one's place in a copyset: one that keeps
// the domains apart, and rather one that makes another copyset, then one that is in the
// fewest for its memory.
func (p *healing) heir(v *Volume, t *seats, col int) (raid.ServerID, bool) {
	key := estate{post{t.set, t.homes[col], 0}, v.Domain, v.Aim}
	if id, ok := p.heirs[key]; ok {
		return id, id != ""
	}
	if p.cover == nil {
		p.heirs, p.cover, p.coined = map[estate]raid.ServerID{}, map[raid.ServerID]uint64{}, map[string]bool{}
		for _, set := range p.s.index.home {
			for _, id := range set.servers {
				p.cover[id]++
			}
		}
	}
	best, bestKnown := -1, false
	for _, i := range p.pick.order(key.post) {
		c := &p.pick.cands[i]
		if c.free < v.chunkBytes(col) || slices.Contains(t.homes, c.ID) || !p.apartFromHomes(v, t, col, c) {
			continue
		}
		homes := slices.Clone(t.homes)
		homes[col] = c.ID
		set := setKey(homes)
		known := p.s.index.home[set] != nil || p.coined[set]
		if best >= 0 {
			b := &p.pick.cands[best]
			fewer := p.cover[c.ID]*(b.MemoryTotal>>20) < p.cover[b.ID]*(c.MemoryTotal>>20)
			if bestKnown && !known || bestKnown == known && !fewer {
				continue
			}
		}
		best, bestKnown = i, known
	}
	if best < 0 {
		p.heirs[key] = ""
		return "", false
	}
	id := p.pick.cands[best].ID
	homes := slices.Clone(t.homes)
	homes[col] = id
	p.coined[setKey(homes)] = true
	p.heirs[key] = id
	p.cover[id]++
	return id, true
}

func (p *healing) apartFromHomes(v *Volume, t *seats, col int, c *candidate) bool {
	for other, id := range t.homes {
		at, ok := p.pick.sites[id]
		if other != col && ok && !c.site.apart(&at, v.Domain, v.Aim) {
			return false
		}
	}
	return true
}
