package state

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"dmps/raid"
)

// A copyset is servers that share groups. A group belongs on the copyset that it was
// placed on, its home. While a server of that is gone, another one stands in for it:
// the member's Home says for whom. So the combinations that repairs make are known as
// such: no volume is placed on them, and their members go home again (home.go).

// home is the server that a member belongs on.
func (m Member) home() raid.ServerID {
	if m.Home != "" {
		return m.Home
	}
	return m.Server
}

// belongs notes the server that a member belongs on.
func (m *Member) belongs(home raid.ServerID) {
	m.Home = ""
	if home != m.Server {
		m.Home = home
	}
}

// belongsTo reports whether a member of the group belongs on a server.
func (g *Group) belongsTo(id raid.ServerID) bool {
	return slices.ContainsFunc(g.Members, func(m Member) bool { return m.home() == id })
}

// settle notes where a column of a group belongs. It is the servers that make a copyset,
// not which of them has which column: who is on another member's server belongs there
// from now on, and that one takes the place that is left. So no two wait for each other.
func (g *Group) settle(col int, home raid.ServerID) {
	g.Members[col].belongs(home)
	for again := true; again; {
		again = false
		for c := range g.Members {
			m := &g.Members[c]
			if m.Home == "" || m.State == raid.MemberLost {
				continue
			}
			for o := range g.Members {
				if other := &g.Members[o]; o != c && other.home() == m.Server {
					other.belongs(m.Home)
					m.Home, again = "", true
					break
				}
			}
		}
	}
}

// copyset is an entry of a table. It is never changed but for groups.
type copyset struct {
	servers []raid.ServerID // ascending
	members int             // of a group
	spare   int             // M of its groups
	groups  int
}

// table counts groups by copyset.
type table map[string]*copyset

// setKey names the servers, which it sorts.
func setKey(servers []raid.ServerID) string {
	slices.Sort(servers)
	n := len(servers)
	for _, id := range servers {
		n += len(id)
	}
	var b strings.Builder
	b.Grow(n)
	for _, id := range servers {
		b.WriteString(string(id))
		b.WriteByte(0)
	}
	return b.String()
}

// add counts one group more on the servers, which are its own from now on.
func (t table) add(key string, servers []raid.ServerID, spare int) {
	set := t[key]
	if set == nil {
		set = &copyset{servers: slices.Clone(servers), members: len(servers), spare: spare}
		t[key] = set
	}
	set.groups++
}

func (t table) remove(key string) {
	set := t[key]
	if set.groups--; set.groups == 0 {
		delete(t, key)
	}
}

// sorted lists the copysets in an order that is the same on every replica.
func (t table) sorted() []*copyset {
	out := make([]*copyset, 0, len(t))
	for _, key := range slices.Sorted(maps.Keys(t)) {
		out = append(out, t[key])
	}
	return out
}

// mark is what an index holds because of one group.
type mark struct {
	home, live string          // keys; empty: not counted
	restless   bool            //
	away       []raid.ServerID // homes of its members that are not there
}

// index finds what a command concerns without a walk over all groups. It follows from
// the groups: settle brings it up to date after a command.
type index struct {
	held     map[raid.ServerID]map[raid.ChunkID]struct{} // chunks that groups have on a server
	home     table                                       // by the servers that groups belong on; of more than one
	live     table                                       // by the servers that they are on; of groups with redundancy, by M too
	restless map[GroupKey]struct{}                       // groups with a member not in sync, or a pending one
	away     map[raid.ServerID]map[GroupKey]struct{}     // groups with members that belong on a server and are not there
	strays   map[raid.VolumeID]int                       // members that are not where they belong
	marks    map[raid.VolumeID][]mark                    // by group
	dirty    []GroupKey                                  // to be marked anew
}

func newIndex() index {
	return index{
		held: map[raid.ServerID]map[raid.ChunkID]struct{}{}, home: table{}, live: table{},
		restless: map[GroupKey]struct{}{}, away: map[raid.ServerID]map[GroupKey]struct{}{},
		strays: map[raid.VolumeID]int{}, marks: map[raid.VolumeID][]mark{},
	}
}

func (x *index) hold(id raid.ServerID, c raid.ChunkID) { put(x.held, id, c) }
func (x *index) release(id raid.ServerID, c raid.ChunkID) {
	take(x.held, id, c)
}

func put[K, E comparable](m map[K]map[E]struct{}, k K, e E) {
	if m[k] == nil {
		m[k] = map[E]struct{}{}
	}
	m[k][e] = struct{}{}
}

func take[K, E comparable](m map[K]map[E]struct{}, k K, e E) {
	delete(m[k], e)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

// markOf says what an index should hold because of a group. ids is for its use.
func markOf(v *Volume, g *Group, ids []raid.ServerID) (m mark, home, live []raid.ServerID) {
	home, live = ids[:0:len(g.Members)], ids[len(g.Members):len(g.Members)]
	for _, member := range g.Members {
		home, live = append(home, member.home()), append(live, member.Server)
		if member.Home != "" && member.State != raid.MemberLost {
			m.away = append(m.away, member.Home)
		}
	}
	m.restless = len(g.Pending) > 0 || !g.whole()
	if len(home) > 1 {
		m.home = setKey(home)
	}
	if v.Geometry.M > 0 {
		m.live = string(rune('0'+v.Geometry.M)) + setKey(live)
	}
	return m, home, live
}

// settle ends a command: the index follows what it touched.
func (s *State) settle() {
	dirty := s.index.dirty
	s.settleGroups()
	seen := raid.VolumeID(0)
	for _, k := range dirty {
		if v := s.Volumes[k.Volume]; v != nil && v.ID != seen {
			seen = v.ID
			s.regain(v)
		}
	}
}

// settleGroups marks groups anew.
func (s *State) settleGroups() {
	var ids []raid.ServerID
	x := &s.index
	for _, k := range x.dirty {
		v := s.Volumes[k.Volume]
		if v == nil {
			x.drop(k.Volume)
			continue
		}
		for len(x.marks[v.ID]) < len(v.Groups) {
			x.marks[v.ID] = append(x.marks[v.ID], mark{})
		}
		g := v.Groups[k.Group]
		ids = slices.Grow(ids[:0], 2*len(g.Members))[:2*len(g.Members)]
		now, home, live := markOf(v, g, ids)
		x.unmark(k, x.marks[v.ID][k.Group])
		x.mark(k, now, home, live, v.Geometry.M)
		x.marks[v.ID][k.Group] = now
	}
	x.dirty = x.dirty[:0]
}

// drop forgets a volume that is no more.
func (x *index) drop(id raid.VolumeID) {
	for g, m := range x.marks[id] {
		x.unmark(GroupKey{id, raid.GroupID(g)}, m)
	}
	delete(x.marks, id)
}

func (x *index) mark(k GroupKey, m mark, home, live []raid.ServerID, spare int) {
	if m.home != "" {
		x.home.add(m.home, home, spare)
	}
	if m.live != "" {
		x.live.add(m.live, live, spare)
	}
	if m.restless {
		x.restless[k] = struct{}{}
	}
	for _, id := range m.away {
		put(x.away, id, k)
	}
	if n := len(m.away); n > 0 {
		x.strays[k.Volume] += n
	}
}

func (x *index) unmark(k GroupKey, m mark) {
	if m.home != "" {
		x.home.remove(m.home)
	}
	if m.live != "" {
		x.live.remove(m.live)
	}
	delete(x.restless, k)
	for _, id := range m.away {
		take(x.away, id, k)
	}
	if n := len(m.away); n > 0 {
		if x.strays[k.Volume] -= n; x.strays[k.Volume] == 0 {
			delete(x.strays, k.Volume)
		}
	}
}

// heldBy lists the chunks of a server that groups have, by volume, group and column;
// a pending one after the member that it replaces.
func (s *State) heldBy(id raid.ServerID) []ChunkRef {
	out := make([]ChunkRef, 0, len(s.index.held[id]))
	for c := range s.index.held[id] {
		out = append(out, s.chunks[c])
	}
	slices.SortFunc(out, func(a, b ChunkRef) int {
		order := cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Col, b.Col))
		switch {
		case order != 0 || a.Pending == b.Pending:
			return order
		case a.Pending:
			return 1
		}
		return -1
	})
	return out
}

// regain notes that a volume is spread by the level at which it was placed again: no
// member of it is away from home, and none shares such a domain with another.
func (s *State) regain(v *Volume) {
	if v.PlacedBy == v.Aim || s.index.strays[v.ID] > 0 {
		return
	}
	for _, g := range v.Groups {
		servers := make([]*Server, 0, 2*len(g.Members))
		for _, m := range g.Members {
			servers = append(servers, s.Servers[m.Server])
		}
		for _, p := range g.Pending {
			servers = append(servers, s.Servers[p.Member.Server])
		}
		for i, a := range servers {
			for _, b := range servers[:i] {
				if a == nil || b == nil || a.ID != b.ID && !apart(a, b, v.Domain, v.Aim) {
					return
				}
			}
		}
	}
	v.PlacedBy = v.Aim
	s.touchVolume(v.ID)
}
