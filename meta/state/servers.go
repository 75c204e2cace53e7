package state

import (
	"maps"
	"slices"

	"dmps/raid"
)

// register begins a server's life, or notes what is new about the present one.
func (s *State) register(c *Register) *Refusal {
	switch {
	case c.ID == "" || len(c.ID) > 128:
		return refuse(Invalid, "a server needs an id of 1 to 128 bytes")
	case c.Incarnation == 0:
		return refuse(Invalid, "server %s: incarnation 0 is no incarnation", c.ID)
	case c.Addr == "":
		return refuse(Invalid, "server %s: no address", c.ID)
	case c.Cluster != "" && c.Cluster != s.Cluster:
		return refuse(ForeignCluster, "server %s belongs to cluster %s, this is cluster %s: start it with the right --meta, or restart it", c.ID, c.Cluster, s.Cluster)
	}
	sv := s.Servers[c.ID]
	switch {
	case sv == nil:
		sv = &Server{ID: c.ID, Incarnation: c.Incarnation}
		s.Servers[c.ID] = sv
	case sv.Incarnation == c.Incarnation:
	case slices.Contains(sv.Past, c.Incarnation):
		return refuse(Invalid, "server %s: incarnation %x was followed by %x, which began later: two servers have this id", c.ID, c.Incarnation, sv.Incarnation)
	case c.Heard && sv.Addr != c.Addr:
		return refuse(IDInUse, "server %s lives at %s: stop that one, or choose another --id for %s", c.ID, sv.Addr, c.Addr)
	default:
		s.loseMembers(sv)
		sv.Past = append(sv.Past, sv.Incarnation)
		if extra := len(sv.Past) - pastIncarnations; extra > 0 {
			sv.Past = slices.Delete(sv.Past, 0, extra)
		}
		sv.Incarnation = c.Incarnation
	}
	sv.Addr = c.Addr
	sv.Labels = maps.Clone(c.Labels)
	sv.MemoryTotal = c.MemoryTotal
	sv.State, sv.Away = ServerUp, 0
	s.touchServer(sv.ID)
	return nil
}

// loseMembers marks all that a server held as lost; what it had reserved went
// with its memory. It gives the number of members.
func (s *State) loseMembers(sv *Server) int {
	lost := 0
	for _, v := range s.SortedVolumes() {
		changed := false
		for g, group := range v.Groups {
			for i, p := range slices.Backward(group.Pending) {
				if p.Member.Server == sv.ID {
					s.cancelPending(v, g, i)
					changed = true
				}
			}
			for c, m := range group.Members {
				if m.Server == sv.ID && m.State != raid.MemberLost {
					s.loseMember(v, g, c)
					changed = true
					lost++
				}
			}
		}
		if changed {
			s.newVersion(v)
		}
	}
	sv.Chunks, sv.Reserved, sv.Freeing = 0, 0, nil
	s.touchServer(sv.ID)
	return lost
}

// live finds a server in the incarnation that the caller means.
func (s *State) live(id raid.ServerID, inc raid.Incarnation) (*Server, *Refusal) {
	sv := s.Servers[id]
	if sv == nil || sv.Incarnation != inc {
		return nil, refuse(NotFound, "no server %s with incarnation %x", id, inc)
	}
	return sv, nil
}

func (s *State) setServer(c *SetServer) *Refusal {
	if c.State > ServerDown {
		return refuse(Invalid, "server %s: state %d is unknown", c.ID, c.State)
	}
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return refusal // a newer life registered meanwhile
	}
	switch {
	case c.State == ServerUp:
		sv.Away = 0
	case sv.State == ServerUp:
		sv.Away = s.now
	}
	sv.State = c.State
	if c.MemoryTotal != 0 {
		sv.MemoryTotal = c.MemoryTotal
	}
	s.touchServer(sv.ID)
	return nil
}

func (s *State) removeServer(c *RemoveServer) (any, *Refusal) {
	sv := s.Servers[c.ID]
	switch {
	case sv == nil:
		return nil, refuse(NotFound, "no server %s", c.ID)
	case sv.State == ServerUp:
		return nil, refuse(IDInUse, "server %s is up and would register again: stop it first", c.ID)
	case sv.Chunks > 0 && !c.Force:
		return nil, refuse(HoldsChunks, "server %s holds %d chunks of volumes: bring it back, delete the volumes, or force its removal and lose them", c.ID, sv.Chunks)
	}
	lost := s.loseMembers(sv)
	delete(s.Servers, c.ID)
	return lost, nil
}

func (s *State) freed(c *Freed) *Refusal {
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return refusal
	}
	for _, id := range c.Chunks {
		sv.Reserved -= sv.Freeing[id] // 0 when it is not among them
		delete(sv.Freeing, id)
	}
	s.touchServer(sv.ID)
	return nil
}
