package state

import "dmps/raid"

// A server may have no memory for a chunk that was promised: memory that it could not
// get back from the system, for example. Its client says so as long as it is so (the
// leader counts for how long), and the member is moved as off a server that is drained:
// another one is filled beside it, and takes its place when it holds everything. The
// member of before counts until then. So nothing is lost if its server has found the memory
// meanwhile, and rows were written there. A pending member that is refused is given up.

// refusedOf finds the members of a group that are to be placed elsewhere: of
// Heal.Refused, and there are K others to fill them from. Volumes that nobody has opened
// have no client that could say so, and those without redundancy nothing to fill from.
func (p *healing) refusedOf(v *Volume, g int) (cols []int) {
	if len(p.refused) == 0 || v.Kind != raid.LayoutLog || v.fresh() {
		return nil
	}
	group, sources := v.Groups[g], 0
	for col, m := range group.Members {
		_, pending := group.pending(col)
		switch {
		case p.missing(m):
		case p.refused[m.Chunk]:
			if !pending {
				cols = append(cols, col)
			}
		case m.State == raid.MemberInSync:
			sources++
		}
	}
	if sources < v.Geometry.K {
		return nil
	}
	return cols
}

// Chunk tells on which server a chunk of a volume is to be, as a member or a pending one.
func (s *State) Chunk(volume raid.VolumeID, id raid.ChunkID) (at ChunkRef, m Member, ok bool) {
	at, ok = s.chunks[id]
	if !ok || at.Volume != volume {
		return ChunkRef{}, Member{}, false
	}
	group := s.Volumes[volume].Groups[at.Group]
	if at.Pending {
		i, _ := group.pending(int(at.Col))
		return at, group.Pending[i].Member, true
	}
	return at, group.Members[at.Col], true
}
