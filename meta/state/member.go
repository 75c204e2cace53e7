package state

import (
	"slices"

	"dmps/raid"
)

// How members change hands. These functions keep what a server has promised,
// who owns which chunk, and since when a group is degraded; their callers end
// with newVersion.

// give takes a new chunk of a server for a column of a group.
func (s *State) give(v *Volume, id raid.ServerID, ref ChunkRef, state raid.MemberState) Member {
	sv := s.Servers[id]
	m := Member{Server: id, Incarnation: sv.Incarnation, Chunk: s.NextChunk, State: state}
	s.NextChunk++
	s.touched.Root = true
	s.chunks[m.Chunk] = ref
	put(s.index.held, id, m.Chunk)
	sv.Chunks++
	sv.Reserved += v.chunkBytes(int(ref.Col))
	s.touchServer(id)
	s.touchGroup(v.ID, int(ref.Group))
	return m
}

// orphan takes a chunk from its column. Its memory counts as reserved until
// the server gave it back (Freed), or is gone itself.
func (s *State) orphan(v *Volume, c raid.Col, m Member) {
	delete(s.chunks, m.Chunk)
	take(s.index.held, m.Server, m.Chunk)
	sv := s.Servers[m.Server]
	if sv == nil || sv.Incarnation != m.Incarnation {
		return
	}
	sv.Chunks--
	if sv.Freeing == nil {
		sv.Freeing = map[raid.ChunkID]uint64{}
	}
	sv.Freeing[m.Chunk] = v.chunkBytes(int(c))
	s.touchServer(sv.ID)
	s.drained(sv)
}

// cancelPending gives up the pending member at index i.
func (s *State) cancelPending(v *Volume, g, i int) {
	group := v.Groups[g]
	p := group.Pending[i]
	s.orphan(v, p.Col, p.Member)
	group.Pending = slices.Delete(group.Pending, i, i+1)
	s.touchGroup(v.ID, g)
}

// promote puts the pending member at index i into its column.
func (s *State) promote(v *Volume, g, i int, state raid.MemberState) {
	group := v.Groups[g]
	p := group.Pending[i]
	m := &group.Members[p.Col]
	if m.State != raid.MemberLost {
		s.orphan(v, p.Col, *m)
	}
	home := m.home()
	if p.Stays && !group.belongsTo(p.Member.Server) {
		home = p.Member.Server
	}
	*m = p.Member
	m.State = state
	group.settle(int(p.Col), home)
	s.chunks[m.Chunk] = ChunkRef{Volume: v.ID, Group: raid.GroupID(g), Col: p.Col}
	group.Pending = slices.Delete(group.Pending, i, i+1)
	if group.whole() {
		group.Since = 0 // the member that leaves had fallen behind
	}
	s.touchGroup(v.ID, g)
}

// loseMember marks a member as lost: its server lost what it held. A pending
// one takes its place.
func (s *State) loseMember(v *Volume, g, c int) {
	group := v.Groups[g]
	m := &group.Members[c]
	s.degraded(group, *m)
	s.orphan(v, raid.Col(c), *m)
	m.State = raid.MemberLost
	if i, ok := group.pending(c); ok {
		s.promote(v, g, i, raid.MemberRebuilding)
	} else {
		s.lost++
	}
	s.touchGroup(v.ID, g)
}

// degraded notes since when a group misses the member: since its server is
// away, if that was first.
func (s *State) degraded(group *Group, m Member) {
	since := s.now
	if sv := s.Servers[m.Server]; sv != nil && sv.Incarnation == m.Incarnation && sv.Away != 0 {
		since = sv.Away
	}
	if group.Since == 0 || since < group.Since {
		group.Since = since
	}
}

// inSync marks a member as holding everything.
func (s *State) inSync(v *Volume, g, c int) {
	group := v.Groups[g]
	group.Members[c].State = raid.MemberInSync
	if group.whole() {
		group.Since = 0
	}
	s.touchGroup(v.ID, g)
}

// newVersion ends a change of a volume's groups.
func (s *State) newVersion(v *Volume) {
	v.Version++
	s.touchVolume(v.ID)
}
