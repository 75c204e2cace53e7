package state

import "slices"

// drain begins or ends the draining of a server. Ending it gives up the moves
// that are not done; what was moved stays where it is.
func (s *State) drain(c *Drain) *Refusal {
	sv := s.Servers[c.ID]
	if sv == nil {
		return refuse(NotFound, "no server %s", c.ID)
	}
	if sv.Draining == !c.Off {
		return nil
	}
	sv.Draining = !c.Off
	s.touchServer(sv.ID)
	if sv.Draining {
		return nil
	}
	for _, v := range s.SortedVolumes() {
		changed := false
		for g, group := range v.Groups {
			for i, p := range slices.Backward(group.Pending) {
				if group.Members[p.Col].Server == sv.ID {
					s.cancelPending(v, g, i)
					changed = true
				}
			}
		}
		if changed {
			s.newVersion(v)
		}
	}
	return nil
}
