package meta

import (
	"cmp"
	"slices"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// chunkList is what a server holds, as its last list of chunks says. A list has thousands,
// and is mostly the same a second later: then only its hash is sent.
type chunkList struct {
	hash   uint64
	chunks []uint64
	clean  bool // nothing in it is to be dropped, freed or noted, by what was decided when it was read last
}

// after is the list once a heartbeat came; ask: it was left out, and is not known.
func (l *chunkList) after(m *metapb.HeartbeatRequest) (now *chunkList, ask bool) {
	switch {
	case !m.ChunksUnchanged:
		return &chunkList{hash: m.ChunksHash, chunks: m.Chunks}, false
	case l == nil || m.ChunksHash == 0 || l.hash != m.ChunksHash:
		return nil, true
	}
	return l, false
}

// holdingsLocked compares what a server holds with the state: what it is to give back, and
// what is to be noted.
func (r *reign) holdingsLocked(s *state.State, sv *state.Server, l *chunkList, used uint64) (drop []uint64, changes []state.Command) {
	// Chunks become somebody's before a server has them, and nobody's by way of Freeing.
	if l.clean && len(sv.Freeing) == 0 && !sv.Unverified && sv.Unknown == 0 {
		return nil, nil
	}
	if sv.Unverified {
		inv := &state.Inventory{ID: sv.ID, Incarnation: sv.Incarnation}
		for _, c := range l.chunks {
			inv.Chunks = append(inv.Chunks, raid.ChunkID(c))
		}
		changes = append(changes, state.Command{Inventory: inv})
	}
	held := make(map[raid.ChunkID]bool, len(l.chunks))
	var unknown []raid.ChunkID
	known := uint64(0) // bytes
	for _, c := range l.chunks {
		chunk := raid.ChunkID(c)
		held[chunk] = true
		bytes, freeing := sv.Freeing[chunk]
		ref, owned := s.Owner(chunk)
		switch freed := s.Freed(chunk); {
		case owned:
			v := s.Volumes[ref.Volume]
			known += state.ChunkBytes(v.Geometry, v.ChunkSlots, ref.Col)
		case freeing:
			known += bytes
		case !freed:
			unknown = append(unknown, chunk)
		}
		if freeing || s.Freed(chunk) {
			drop = append(drop, c)
		}
	}
	r.mu.unknown[sv.ID] = unknown
	n := &state.Unknown{ID: sv.ID, Incarnation: sv.Incarnation, Chunks: uint64(len(unknown))}
	if len(unknown) > 0 {
		n.Next = slices.Max(unknown) + 1
		n.Bytes = max(used, known) - known
	}
	if n.Chunks != sv.Unknown || resized(sv.UnknownBytes+1, n.Bytes+1) {
		changes = append(changes, state.Command{Unknown: n})
	}
	freed := &state.Freed{ID: sv.ID, Incarnation: sv.Incarnation}
	for c := range sv.Freeing {
		if !held[c] {
			freed.Chunks = append(freed.Chunks, c)
		}
	}
	if len(freed.Chunks) > 0 {
		changes = append(changes, state.Command{Freed: freed})
	}
	l.clean = len(drop) == 0 && len(changes) == 0
	return drop, changes
}

// describeAtOnce is of how many chunks a server is asked what they are, with each heartbeat.
const describeAtOnce = 1024

// describedLocked keeps what a server said of its unknown chunks, and gives those that it
// is to say next.
func (r *reign) describedLocked(id raid.ServerID, said []*metapb.ChunkAbout) (ask []uint64) {
	unknown := r.mu.unknown[id]
	if len(unknown) == 0 {
		delete(r.mu.about, id)
		return nil
	}
	fresh := make(map[raid.ChunkID]*metapb.ChunkAbout, len(said))
	for _, a := range said {
		fresh[raid.ChunkID(a.GetChunk())] = a
	}
	was, about := r.mu.about[id], make(map[raid.ChunkID]*metapb.ChunkAbout, len(unknown))
	for _, c := range unknown { // and of no other one
		if a := cmp.Or(fresh[c], was[c]); a != nil {
			about[c] = a
		} else if len(ask) < describeAtOnce {
			ask = append(ask, uint64(c))
		}
	}
	r.mu.about[id] = about
	return ask
}

// unknownLocked lists what a server holds that this state did not give out.
func (r *reign) unknownLocked(s *state.State, id raid.ServerID) (out []*metapb.UnknownChunk) {
	for _, c := range r.mu.unknown[id] {
		u := &metapb.UnknownChunk{About: &metapb.ChunkAbout{Chunk: uint64(c)}}
		if a := r.mu.about[id][c]; a != nil {
			u.About = a
			if v := s.Volumes[raid.VolumeID(a.Volume)]; v != nil {
				u.Volume = v.Name
			}
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b *metapb.UnknownChunk) int {
		return cmp.Or(cmp.Compare(a.About.Volume, b.About.Volume), cmp.Compare(a.About.Group, b.About.Group), cmp.Compare(a.About.Chunk, b.About.Chunk))
	})
	return out
}
