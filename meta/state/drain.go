package state

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
		s.note(Event{Kind: EventServerDraining, Server: sv.ID}, "server %s is to be drained of its members: %d", sv.ID, sv.Chunks)
		s.drained(sv)
		return nil
	}
	s.note(Event{Kind: EventServerUndrained, Server: sv.ID}, "server %s is not drained any more, and has %d members", sv.ID, sv.Chunks)
	var last *Volume
	for _, ref := range s.heldBy(sv.ID) {
		v := s.Volumes[ref.Volume]
		if at, ok := v.Groups[ref.Group].pending(int(ref.Col)); ok && !ref.Pending {
			s.cancelPending(v, int(ref.Group), at)
			if v != last {
				s.newVersion(v)
				last = v
			}
		}
	}
	return nil
}

// drained tells when a server has nothing left: what this state does not know of nobody
// moves, and would end with the server.
func (s *State) drained(sv *Server) {
	if sv.Draining && sv.Chunks == 0 && sv.Unknown == 0 {
		s.note(Event{Kind: EventServerDrained, Server: sv.ID}, "server %s is drained: it holds nothing, and can be stopped and removed", sv.ID)
	}
}
