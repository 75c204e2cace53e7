package state

import (
	"slices"

	"dmps/raid"
)

// behind notes that members are about to miss rows which so few others hold that
// those alone could not tell. The next client takes no word of theirs for what
// they lack; they are filled like replacements, and in sync once that is said.
//
// The client may not have heard yet of members that are lost, and rely on these. Where
// fewer than K members in sync would be left nobody is noted: the group could not be
// recovered any more, and what is written to those who are lost would be lost. The new
// version tells the client.
func (s *State) behind(c *Behind) *Refusal {
	if refusal := s.Renewable(c.Volume, c.Epoch); refusal != nil {
		return refusal
	}
	v := s.Volumes[c.Volume]
	n := uint64(0)
	for _, id := range c.Chunks {
		ref, ok := s.chunks[id]
		if !ok || ref.Volume != v.ID || ref.Pending {
			continue // replaced meanwhile, or not relied on
		}
		// Also where nothing changes: the holder must hear how the group stands, and is
		// sent only groups that were touched.
		s.touchGroup(v.ID, int(ref.Group))
		group := v.Groups[ref.Group]
		m := &group.Members[ref.Col]
		if m.State != raid.MemberInSync || inSyncWithout(group, c.Chunks) < v.Geometry.K {
			continue
		}
		s.degraded(group, *m)
		m.State = raid.MemberRebuilding
		n++
	}
	s.newVersion(v)
	v.Behind = v.Version
	if n > 0 {
		s.note(Event{Kind: EventMembersBehind, Volume: v.Name, Count: n}, "%d members of volume %s are away while it is written with so few others that these must not be overlooked: they are filled when they return", n, v.Name)
	}
	return nil
}

// inSyncWithout counts the members of a group in sync that are not among chunks.
func inSyncWithout(group *Group, chunks []raid.ChunkID) (n int) {
	for _, m := range group.Members {
		if m.State == raid.MemberInSync && !slices.Contains(chunks, m.Chunk) {
			n++
		}
	}
	return n
}
