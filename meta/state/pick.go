package state

import (
	"fmt"
	"slices"

	"dmps/raid"
)

// seats is who sits in a group while a plan is made: the servers of its
// members, and of its pending ones by column.
type seats struct {
	members []raid.ServerID
	lost    []bool
	pending map[int]raid.ServerID
}

func newSeats(g *Group) *seats {
	t := &seats{pending: map[int]raid.ServerID{}}
	for _, m := range g.Members {
		t.members = append(t.members, m.Server)
		t.lost = append(t.lost, m.State == raid.MemberLost)
	}
	for _, p := range g.Pending {
		t.pending[int(p.Col)] = p.Member.Server
	}
	return t
}

// picker chooses servers for single members, one after another.
type picker struct {
	s     *State
	cands []candidate
	known map[uint64]bool // combinations of servers that groups use
	rng   random
}

func newPicker(s *State, seed uint64) *picker {
	return &picker{s: s, cands: s.candidates(), rng: random(seed)}
}

// setKey is a number for a server, so that the sum over a combination's names
// the combination.
func setKey(id raid.ServerID) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range []byte(id) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	r := random(h)
	return r.next()
}

// combinations notes which servers share groups. It takes long, and is left
// undone until somebody must be chosen.
func (p *picker) combinations() {
	if p.known != nil {
		return
	}
	p.known = map[uint64]bool{}
	keys := map[raid.ServerID]uint64{}
	for _, v := range p.s.Volumes {
		for _, g := range v.Groups {
			sum := uint64(0)
			for _, m := range g.Members {
				k, ok := keys[m.Server]
				if !ok {
					k = setKey(m.Server)
					keys[m.Server] = k
				}
				sum += k
			}
			p.known[sum] = true
		}
	}
}

// choose finds a server for a column of a group: one that keeps the failure
// domains apart, by the level at which the volume is spread or else a finer
// one that it allows; rather one that makes a combination of servers that
// other groups use already, unless these are much fuller than another; and of
// two such, drawn at random, the one with more memory left. A server of the
// group is never chosen; the member's own, started again, is, when own says
// so. The chosen one's memory counts as taken.
func (p *picker) choose(v *Volume, t *seats, col int, own bool) (to raid.ServerID, by Level, why string) {
	p.combinations()
	need := v.chunkBytes(col)
	apartOnly := 0 // candidates that only lack memory
	levels := v.Domain.wider()
	if i := slices.Index(levels, v.PlacedBy); i > 0 {
		levels = levels[i:]
	}
	for _, by := range levels {
		var fit []int
		apartOnly = 0
		for i := range p.cands {
			switch {
			case !p.seatable(v, t, col, p.cands[i].Server, by, own):
			case p.cands[i].free < need:
				apartOnly++
			default:
				fit = append(fit, i)
			}
		}
		if len(fit) == 0 {
			continue
		}
		at := p.best(p.prefer(fit, t, col))
		p.cands[at].free -= need
		return p.cands[at].ID, by, ""
	}
	switch {
	case apartOnly > 0:
		why = fmt.Sprintf("none of the %d servers that fit has %s of memory left: add servers or memory", apartOnly, size(need))
	case len(p.cands) == 0:
		why = "no server is up"
	default:
		why = fmt.Sprintf("none of the %d servers that are up is in a failure domain (%v) of its own: add a server", len(p.cands), v.Domain)
	}
	return "", 0, why
}

// seatable reports whether a server may be a group's column.
func (p *picker) seatable(v *Volume, t *seats, col int, sv *Server, by Level, own bool) bool {
	conflicts := func(c int, id raid.ServerID, lost bool) bool {
		if id == sv.ID {
			return c != col || !own
		}
		// What is lost keeps no domain: only its id, for the server's return.
		other := p.s.Servers[id]
		return c != col && !lost && other != nil && !apart(sv, other, v.Domain, by)
	}
	for c, id := range t.members {
		if conflicts(c, id, t.lost[c]) {
			return false
		}
	}
	for c, id := range t.pending {
		if conflicts(c, id, false) {
			return false
		}
	}
	return true
}

// prefer keeps the candidates that make a known combination and have at least
// half the free memory of the emptiest; all when there is none.
func (p *picker) prefer(fit []int, t *seats, col int) []int {
	var sum, most uint64
	for c, id := range t.members {
		if c != col {
			sum += setKey(id)
		}
	}
	for _, i := range fit {
		most = max(most, p.cands[i].free)
	}
	var known []int
	for _, i := range fit {
		if p.known[sum+setKey(p.cands[i].ID)] && p.cands[i].free >= most/2 {
			known = append(known, i)
		}
	}
	if len(known) > 0 {
		return known
	}
	for _, i := range fit {
		if p.cands[i].free >= most/2 {
			known = append(known, i)
		}
	}
	return known
}

// best draws two and takes the emptier.
func (p *picker) best(fit []int) int {
	a, b := fit[p.rng.below(len(fit))], fit[p.rng.below(len(fit))]
	if p.cands[b].free > p.cands[a].free {
		return b
	}
	return a
}
