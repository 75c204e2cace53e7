package state

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"dmps/meta/level"
	"dmps/raid"
)

// Check walks every invariant and reports all that do not hold.
func (s *State) Check() error {
	c := &check{s: s, chunks: map[raid.ServerID]uint64{}, reserved: map[raid.ServerID]uint64{}, seen: map[raid.ChunkID]string{}}
	for id, v := range s.Volumes {
		c.volume(id, v)
	}
	if c.lost != s.lost {
		c.add("%d members are lost, %d noted", c.lost, s.lost)
	}
	if c.live != len(s.chunks) || len(s.Volumes) != len(s.byName) {
		c.add("%d chunks of %d indexed, %d names of %d volumes", len(s.chunks), c.live, len(s.byName), len(s.Volumes))
	}
	for id, sv := range s.Servers { // after the volumes, which say what it has
		c.server(id, sv)
	}
	c.index()
	for id, n := range s.Nodes {
		if n.ID != id {
			c.add("node %s stands at %s", n.ID, id)
		}
	}
	c.levels()
	return errors.Join(c.errs...)
}

// levels looks for fields in records that the cluster's level does not know: nodes of
// an older build would not read them.
func (c *check) levels() {
	above := func(what any, record any) {
		if needs := level.Of(record); needs > c.s.Level {
			c.add("the record of %v needs cluster level %d, the cluster is at level %d", what, needs, c.s.Level)
		}
	}
	for id, sv := range c.s.Servers {
		above(id, sv)
	}
	for id, v := range c.s.Volumes {
		above(id, v)
		for g, group := range v.Groups {
			above(GroupKey{id, raid.GroupID(g)}, group)
		}
	}
	for id, n := range c.s.Nodes {
		above(id, n)
	}
	for i := range c.s.Events {
		above(c.s.Events[i].Kind, &c.s.Events[i])
	}
}

// check is one walk.
type check struct {
	s    *State
	errs []error

	chunks     map[raid.ServerID]uint64 // of members, by server
	reserved   map[raid.ServerID]uint64 // bytes
	seen       map[raid.ChunkID]string  // where
	live, lost int
}

func (c *check) add(format string, a ...any) { c.errs = append(c.errs, fmt.Errorf(format, a...)) }

func (c *check) volume(id raid.VolumeID, v *Volume) {
	if v.ID != id || id >= c.s.NextVolume {
		c.add("volume %d stands at %d, next is %d", v.ID, id, c.s.NextVolume)
	}
	if c.s.byName[v.Name] != id {
		c.add("volume %d is not found by its name %s", id, v.Name)
	}
	if v.LastLease > v.Epoch || v.Lease != nil && v.Lease.Epoch != v.LastLease {
		c.add("volume %d: epoch %d, last lease %d, lease %+v", id, v.Epoch, v.LastLease, v.Lease)
	}
	if (v.Unknown() == 0) != (v.UnknownAt == 0) || v.Accepted > v.Version {
		c.add("volume %d: %d unknown pages since %d, accepted as of version %d of %d", id, v.Unknown(), v.UnknownAt, v.Accepted, v.Version)
	}
	if err := c.s.Layout(v, v.Epoch, false).Validate(); err != nil {
		c.add("volume %d: %w", id, err)
	}
	if !slices.Contains(v.PlacedBy.wider(), v.Aim) || !slices.Contains(v.Domain.wider(), v.PlacedBy) {
		c.add("volume %d asks for %v, is spread by %v and was placed by %v", id, v.Domain, v.PlacedBy, v.Aim)
	}
	for g, group := range v.Groups {
		at := fmt.Sprintf("volume %d group %d", id, g)
		servers := map[raid.ServerID]int{}
		for col, m := range group.Members {
			servers[m.Server]++
			c.member(at, m, ChunkRef{id, raid.GroupID(g), raid.Col(col), false}, v.chunkBytes(col))
		}
		for _, p := range group.Pending {
			if p.Member.Home != "" {
				c.add("%s: pending member %d belongs on %s", at, p.Col, p.Member.Home)
			}
			servers[p.Member.Server]++
			c.member(at, p.Member, ChunkRef{id, raid.GroupID(g), p.Col, true}, v.chunkBytes(int(p.Col)))
		}
		homes := map[raid.ServerID]bool{}
		for col, m := range group.Members {
			if m.Home == m.Server || homes[m.home()] {
				c.add("%s: member %d on %s belongs on %s", at, col, m.Server, m.home())
			}
			homes[m.home()] = true
		}
		for sv, n := range servers {
			if n > 1 {
				c.add("%s: server %s %d times", at, sv, n)
			}
		}
		if group.whole() != (group.Since == 0) {
			c.add("%s: degraded since %d, whole: %v", at, group.Since, group.whole())
		}
	}
}

func (c *check) member(at string, m Member, ref ChunkRef, bytes uint64) {
	if m.Chunk == 0 || m.Chunk >= c.s.NextChunk {
		c.add("%s: chunk %d, next is %d", at, m.Chunk, c.s.NextChunk)
	}
	if other, ok := c.seen[m.Chunk]; ok {
		c.add("%s: chunk %d is %s's too", at, m.Chunk, other)
	}
	c.seen[m.Chunk] = at
	if m.State == raid.MemberLost {
		c.lost++
		return
	}
	c.live++
	if c.s.chunks[m.Chunk] != ref {
		c.add("%s: chunk %d is indexed as %+v", at, m.Chunk, c.s.chunks[m.Chunk])
	}
	sv := c.s.Servers[m.Server]
	if sv == nil || sv.Incarnation != m.Incarnation {
		c.add("%s: member on server %s with incarnation %x is not lost", at, m.Server, m.Incarnation)
		return
	}
	c.chunks[m.Server]++
	c.reserved[m.Server] += bytes
}

// index compares the index with a new one.
func (c *check) index() {
	is, want := &c.s.index, newIndex()
	for _, v := range c.s.Volumes {
		want.include(v)
	}
	want.settle(c.s.Volumes)
	same := func(what string, ok bool) {
		if !ok {
			c.add("the index of %s is not what the groups say", what)
		}
	}
	groups := func(a, b *copyset) bool { return a.groups == b.groups && slices.Equal(a.servers, b.servers) }
	same("copysets", maps.EqualFunc(is.home, want.home, groups))
	same("copysets in use", maps.EqualFunc(is.live, want.live, groups))
	same("groups to be healed", maps.Equal(is.restless, want.restless))
	same("members away from home", maps.EqualFunc(is.away, want.away, maps.Equal[map[GroupKey]struct{}, map[GroupKey]struct{}]) && maps.Equal(is.strays, want.strays))
	same("chunks by server", maps.EqualFunc(is.held, want.held, maps.Equal[map[raid.ChunkID]struct{}, map[raid.ChunkID]struct{}]))
	for _, v := range c.s.Volumes {
		same("what is known of volume "+v.Name, *c.s.survey(v) == *c.s.walk(v) && (v.Stuck == nil || reflect.DeepEqual(c.s.StuckNow(v), c.s.stuckNow(v))))
	}
	if len(is.dirty) > 0 {
		c.add("%d groups are not in the index", len(is.dirty))
	}
}

func (c *check) server(id raid.ServerID, sv *Server) {
	if (sv.State == ServerUp) != (sv.Away == 0) {
		c.add("server %s is %v, away since %d", id, sv.State, sv.Away)
	}
	for chunk, n := range sv.Freeing {
		if other, ok := c.seen[chunk]; ok {
			c.add("server %s frees chunk %d of %s", id, chunk, other)
		}
		c.reserved[id] += n
	}
	if sv.ID != id || sv.Chunks != c.chunks[id] || sv.Reserved != c.reserved[id] {
		c.add("server %s at %s: %d chunks and %d bytes noted, %d and %d found", sv.ID, id, sv.Chunks, sv.Reserved, c.chunks[id], c.reserved[id])
	}
}
