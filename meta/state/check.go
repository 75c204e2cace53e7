package state

import (
	"errors"
	"fmt"

	"dmps/raid"
)

// Check walks every invariant and reports all that do not hold.
func (s *State) Check() error {
	var errs []error
	add := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }

	chunks := map[raid.ServerID]uint64{}
	reserved := map[raid.ServerID]uint64{}
	seen := map[raid.ChunkID]string{}
	live, lost := 0, 0
	holds := func(at string, m Member, ref ChunkRef, bytes uint64) {
		if m.Chunk == 0 || m.Chunk >= s.NextChunk {
			add("%s: chunk %d, next is %d", at, m.Chunk, s.NextChunk)
		}
		if other, ok := seen[m.Chunk]; ok {
			add("%s: chunk %d is %s's too", at, m.Chunk, other)
		}
		seen[m.Chunk] = at
		if m.State == raid.MemberLost {
			lost++
			return
		}
		live++
		if s.chunks[m.Chunk] != ref {
			add("%s: chunk %d is indexed as %+v", at, m.Chunk, s.chunks[m.Chunk])
		}
		sv := s.Servers[m.Server]
		if sv == nil || sv.Incarnation != m.Incarnation {
			add("%s: member on server %s with incarnation %x is not lost", at, m.Server, m.Incarnation)
			return
		}
		chunks[m.Server]++
		reserved[m.Server] += bytes
	}
	for id, v := range s.Volumes {
		if v.ID != id || id >= s.NextVolume {
			add("volume %d stands at %d, next is %d", v.ID, id, s.NextVolume)
		}
		if s.byName[v.Name] != id {
			add("volume %d is not found by its name %s", id, v.Name)
		}
		if v.LastLease > v.Epoch || v.Lease != nil && v.Lease.Epoch != v.LastLease {
			add("volume %d: epoch %d, last lease %d, lease %+v", id, v.Epoch, v.LastLease, v.Lease)
		}
		if (v.Unknown() == 0) != (v.UnknownAt == 0) || v.Accepted > v.Version {
			add("volume %d: %d unknown pages since %d, accepted as of version %d of %d", id, v.Unknown(), v.UnknownAt, v.Accepted, v.Version)
		}
		if err := s.Layout(v, v.Epoch, false).Validate(); err != nil {
			add("volume %d: %w", id, err)
		}
		for g, group := range v.Groups {
			at := fmt.Sprintf("volume %d group %d", id, g)
			servers := map[raid.ServerID]int{}
			for c, m := range group.Members {
				servers[m.Server]++
				holds(at, m, ChunkRef{id, raid.GroupID(g), raid.Col(c), false}, v.chunkBytes(c))
			}
			for _, p := range group.Pending {
				servers[p.Member.Server]++
				holds(at, p.Member, ChunkRef{id, raid.GroupID(g), p.Col, true}, v.chunkBytes(int(p.Col)))
			}
			for sv, n := range servers {
				if n > 1 {
					add("%s: server %s %d times", at, sv, n)
				}
			}
			if group.whole() != (group.Since == 0) {
				add("%s: degraded since %d, whole: %v", at, group.Since, group.whole())
			}
		}
	}
	if lost != s.lost {
		add("%d members are lost, %d noted", lost, s.lost)
	}
	if live != len(s.chunks) || len(s.Volumes) != len(s.byName) {
		add("%d chunks of %d indexed, %d names of %d volumes", len(s.chunks), live, len(s.byName), len(s.Volumes))
	}
	for id, sv := range s.Servers {
		if (sv.State == ServerUp) != (sv.Away == 0) {
			add("server %s is %v, away since %d", id, sv.State, sv.Away)
		}
		for c, n := range sv.Freeing {
			if other, ok := seen[c]; ok {
				add("server %s frees chunk %d of %s", id, c, other)
			}
			reserved[id] += n
		}
		if sv.ID != id || sv.Chunks != chunks[id] || sv.Reserved != reserved[id] {
			add("server %s at %s: %d chunks and %d bytes noted, %d and %d found", sv.ID, id, sv.Chunks, sv.Reserved, chunks[id], reserved[id])
		}
	}
	for id, n := range s.Nodes {
		if n.ID != id {
			add("node %s stands at %s", n.ID, id)
		}
	}
	return errors.Join(errs...)
}
