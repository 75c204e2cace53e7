package meta

import (
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
