package state

import (
	"cmp"
	"maps"
	"slices"

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
	key     string
	servers []raid.ServerID // ascending
	spare   int             // M of its groups; of those on homes: of the first
	groups  int
}

// table counts groups by copyset.
type table map[string]*copyset

// appendKey names the servers, which it sorts.
func appendKey(key []byte, servers []raid.ServerID) []byte {
	slices.Sort(servers)
	for _, id := range servers {
		key = append(append(key, id...), 0)
	}
	return key
}

func setKey(servers []raid.ServerID) string { return string(appendKey(nil, servers)) }

// add counts one group more on the servers.
func (t table) add(key []byte, servers []raid.ServerID, spare int) *copyset {
	set := t[string(key)]
	if set == nil {
		set = &copyset{key: string(key), servers: slices.Clone(servers), spare: spare}
		t[set.key] = set
	}
	set.groups++
	return set
}

func (t table) remove(set *copyset) {
	if set == nil {
		return
	}
	if set.groups--; set.groups == 0 {
		delete(t, set.key)
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
	home, live *copyset        // nil: not counted
	restless   bool            //
	away       []raid.ServerID // homes of its members that are not there
	version    uint64          // of the volume, when the group was last touched, as far as this replica knows
}

// index finds what a command concerns without a walk over all groups. It follows from
// the groups: settle brings it up to date after a command.
type index struct {
	held     map[raid.ServerID]map[raid.ChunkID]struct{} // chunks that groups have on a server
	home     table                                       // by the servers that groups belong on; of more than one
	live     table                                       // by M and the servers that groups with redundancy are on
	restless map[GroupKey]struct{}                       // groups with a member not in sync, or a pending one
	away     map[raid.ServerID]map[GroupKey]struct{}     // groups with members that belong on a server and are not there
	strays   map[raid.VolumeID]int                       // members that are not where they belong
	marks    map[raid.VolumeID][]mark                    // by group
	base     map[raid.VolumeID]uint64                    // version of a volume from which on marks are known to be right
	dirty    []GroupKey                                  // to be marked anew
	views    *views

	ids []raid.ServerID // for markOf
	key []byte          // for markOf
}

func newIndex() index {
	return index{
		held: map[raid.ServerID]map[raid.ChunkID]struct{}{}, home: table{}, live: table{},
		restless: map[GroupKey]struct{}{}, away: map[raid.ServerID]map[GroupKey]struct{}{},
		strays: map[raid.VolumeID]int{}, marks: map[raid.VolumeID][]mark{}, base: map[raid.VolumeID]uint64{}, views: newViews(),
	}
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

// include takes a volume that was read.
func (x *index) include(v *Volume) {
	for g, group := range v.Groups {
		x.dirty = append(x.dirty, GroupKey{v.ID, raid.GroupID(g)})
		for _, m := range group.Members {
			if m.State != raid.MemberLost {
				put(x.held, m.Server, m.Chunk)
			}
		}
		for _, p := range group.Pending {
			put(x.held, p.Member.Server, p.Member.Chunk)
		}
	}
}

// settle ends a command: the index follows what it touched.
func (s *State) settle() {
	dirty := s.index.dirty
	s.index.settle(s.Volumes)
	s.settleViews(dirty)
	seen := raid.VolumeID(0)
	for _, k := range dirty {
		if v := s.Volumes[k.Volume]; v != nil && v.ID != seen {
			seen = v.ID
			s.regain(v)
		}
	}
}

// settle marks groups anew.
func (x *index) settle(volumes map[raid.VolumeID]*Volume) {
	for _, k := range x.dirty {
		v := volumes[k.Volume]
		if v == nil {
			for g, m := range x.marks[k.Volume] {
				x.unmark(GroupKey{k.Volume, raid.GroupID(g)}, m)
			}
			delete(x.marks, k.Volume)
			delete(x.base, k.Volume)
			continue
		}
		if len(x.marks[v.ID]) == 0 {
			x.marks[v.ID], x.base[v.ID] = make([]mark, len(v.Groups)), v.Version
		}
		was := &x.marks[v.ID][k.Group]
		x.unmark(k, *was)
		*was = x.mark(k, v.Geometry.M, v.Groups[k.Group])
		was.version = v.Version
	}
	x.dirty = x.dirty[:0]
}

func (x *index) mark(k GroupKey, spare int, g *Group) (m mark) {
	x.ids, x.key = x.ids[:0], append(x.key[:0], byte(spare))
	strange := false
	for _, member := range g.Members {
		x.ids = append(x.ids, member.home())
		if member.Home == "" {
			continue
		}
		strange = true
		if member.State != raid.MemberLost {
			m.away = append(m.away, member.Home)
			put(x.away, member.Home, k)
			x.strays[k.Volume]++
		}
	}
	x.key = appendKey(x.key, x.ids)
	if len(x.ids) > 1 {
		m.home = x.home.add(x.key[1:], x.ids, spare)
	}
	if strange {
		for c, member := range g.Members {
			x.ids[c] = member.Server
		}
		x.key = appendKey(x.key[:1], x.ids)
	}
	if spare > 0 {
		m.live = x.live.add(x.key, x.ids, spare)
	}
	if m.restless = len(g.Pending) > 0 || !g.whole(); m.restless {
		x.restless[k] = struct{}{}
	}
	return m
}

func (x *index) unmark(k GroupKey, m mark) {
	x.home.remove(m.home)
	x.live.remove(m.live)
	if m.restless {
		delete(x.restless, k)
	}
	for _, id := range m.away {
		take(x.away, id, k)
		if x.strays[k.Volume]--; x.strays[k.Volume] == 0 {
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
