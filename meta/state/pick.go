package state

import (
	"cmp"
	"fmt"
	"slices"

	"dmps/raid"
)

// seats is who sits in a group while a plan is made: the servers of its
// members, and of its pending ones by column.
type seats struct {
	members []raid.ServerID
	homes   []raid.ServerID
	set     string // names the servers in homes
	lost    []bool
	pending map[int]raid.ServerID
}

func newSeats(g *Group) *seats {
	t := &seats{pending: map[int]raid.ServerID{}}
	for _, m := range g.Members {
		t.members = append(t.members, m.Server)
		t.homes = append(t.homes, m.home())
		t.lost = append(t.lost, m.State == raid.MemberLost)
	}
	t.set = setKey(slices.Clone(t.homes))
	for _, p := range g.Pending {
		t.pending[int(p.Col)] = p.Member.Server
	}
	return t
}

// substitutes is how many servers stand in for one in a copyset: each makes one
// combination of all the groups that it takes. Few keep the combinations few, and
// several share the room and the work.
const substitutes = 4

// mostTickets is how many times as likely as another a server is drawn that has as many
// times the memory; mean servers have a quarter.
const mostTickets = 16

// reserve is the part of its memory that a server keeps free when others can take a
// member.
const reserve = 0.1

// picker chooses servers for single members, one after another.
type picker struct {
	s      *State
	full   []raid.ServerID // that get none
	cands  []candidate     // that get new chunks, by id
	byID   map[raid.ServerID]int
	sites  map[raid.ServerID]site // of all servers
	hashes []uint64               // of candidates
	orders map[post][]int         // of candidates, as post draws them
}

// post is what substitutes are drawn for: the groups of one of so many parts of a
// copyset, as far as they miss one server.
type post struct {
	set    string
	server raid.ServerID
	part   int
}

func newPicker(s *State, full ...raid.ServerID) *picker { return &picker{s: s, full: full} }

// ready looks at the servers, which is left undone until somebody must be chosen.
func (p *picker) ready() {
	if p.byID != nil {
		return
	}
	p.byID, p.sites, p.orders = map[raid.ServerID]int{}, map[raid.ServerID]site{}, map[post][]int{}
	for _, c := range p.s.sites() {
		p.sites[c.ID] = c.site
		if c.takes() && !slices.Contains(p.full, c.ID) {
			p.byID[c.ID] = len(p.cands)
			p.cands = append(p.cands, c)
			p.hashes = append(p.hashes, hash(string(c.ID)))
		}
	}
}

// hash is a number for a text (FNV-1a, and SplitMix64 to spread it).
func hash(text string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(text) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	r := random(h)
	return r.next()
}

// order lists the candidates as a post draws them (highest random weight, Thaler and
// Ravishankar 1998): whoever plans, and whenever, comes to the same few while they are
// there, and the more memory one has, the more posts are its.
func (p *picker) order(at post) []int {
	order, ok := p.orders[at]
	if ok {
		return order
	}
	mean := max(capacity(p.cands)/uint64(max(len(p.cands), 1)), 1)
	key := hash(at.set) ^ hash(string(at.server)) + uint64(at.part)
	scores := make([]uint64, len(p.cands))
	for i, c := range p.cands {
		draw := random(key ^ p.hashes[i])
		for range min(max(c.MemoryTotal/max(mean/4, 1), 1), mostTickets) {
			scores[i] = max(scores[i], draw.next())
		}
		order = append(order, i)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(a, b)) })
	p.orders[at] = order
	return order
}

// choose finds a server for a column of a group: one that keeps the failure
// domains apart, by the level at which the volume was placed or else a finer
// one that it allows. That is the server where the member belongs, or one that the
// member's post draws, unless it is nearly full. A server of the
// group is never chosen; the member's own, started again, is, when own says
// so. The chosen one's memory counts as taken.
func (p *picker) choose(v *Volume, t *seats, group, col int, own bool) (to raid.ServerID, by Level, why string) {
	p.ready()
	need := v.chunkBytes(col)
	apartOnly := 0 // candidates that only lack memory
	levels := v.Domain.wider()
	if i := slices.Index(levels, v.Aim); i > 0 {
		levels = levels[i:]
	}
	order := p.order(post{t.set, t.homes[col], (int(v.ID) + group) % substitutes})
	home, there := p.byID[t.homes[col]]
	for _, by := range levels {
		apartOnly = 0
		second := -1 // the first that is nearly full then, or that another member waits for
		for n := -1; n < len(order); n++ {
			i := home
			switch {
			case n >= 0:
				i = order[n]
			case !there:
				continue
			}
			c := &p.cands[i]
			switch {
			case !p.seatable(v, t, col, c.ID, by, own):
				continue
			case c.free < need:
				apartOnly++
				continue
			case n >= 0 && (float64(c.free-need) < reserve*float64(c.MemoryTotal) || slices.Contains(t.homes, c.ID)):
				if second < 0 {
					second = i
				}
				continue
			}
			c.free -= need
			return c.ID, by, ""
		}
		if second >= 0 {
			p.cands[second].free -= need
			return p.cands[second].ID, by, ""
		}
	}
	switch {
	case apartOnly > 0:
		why = fmt.Sprintf("none of the %d servers that fit has %s of memory left: add servers or memory", apartOnly, size(need))
	case len(p.cands) == 0:
		why = fmt.Sprintf("no server takes chunks (%s)", cmp.Or(p.s.takingNone(), "there is none"))
	default:
		why = fmt.Sprintf("none of the %d servers that take chunks is in a failure domain (%v) of its own: add a server", len(p.cands), v.Domain)
	}
	return "", 0, why
}

// seatable reports whether a server may be a group's column.
func (p *picker) seatable(v *Volume, t *seats, col int, to raid.ServerID, by Level, own bool) bool {
	at := p.sites[to]
	conflicts := func(c int, id raid.ServerID, lost bool) bool {
		if id == to {
			return c != col || !own
		}
		if c == col || lost {
			return false // what is lost keeps no domain: only its id, for the server's return
		}
		other, ok := p.sites[id]
		return ok && !at.apart(&other, v.Domain, by)
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
