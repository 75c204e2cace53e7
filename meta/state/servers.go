package state

import (
	"fmt"
	"maps"
	"slices"

	"dmps/raid"
)

// Registrable says why a server may not register, whether it can be reached left aside.
func (s *State) Registrable(c *Register) *Refusal {
	switch {
	case c.ID == "":
		return refuse(Invalid, "a server needs an id")
	case c.Incarnation == 0:
		return refuse(Invalid, "server %s: incarnation 0 is no incarnation", c.ID)
	case s.Servers[c.ID] == nil && len(s.Servers) >= maxServers:
		return refuse(Invalid, "server %s: a cluster has at most %d servers: remove those that are gone for good with dmps server remove", c.ID, maxServers)
	case !c.Host.valid() || len(c.Folder) > 64 || !c.Build.Valid():
		return refuse(Invalid, "server %s: what it says of its host or version is too long", c.ID)
	case c.Addr == "":
		return refuse(Invalid, "server %s: no address", c.ID)
	case c.Cluster != "" && c.Cluster != s.Cluster:
		return refuse(ForeignCluster, "server %s belongs to cluster %s, this is cluster %s: start it with the right --meta, or restart it", c.ID, c.Cluster, s.Cluster)
	}
	sv := s.Servers[c.ID]
	past := sv != nil && slices.Contains(sv.Past, c.Incarnation)
	switch {
	case sv == nil || sv.Incarnation == c.Incarnation:
	case past && !c.Ghost && (sv.State != ServerDown || c.Heard):
		return refuse(Invalid, "server %s: incarnation %x was followed by %x at %s on %v, which began later: two servers have this id", c.ID, c.Incarnation, sv.Incarnation, sv.Addr, sv.Host)
	case !past && !sv.yields(c) && c.Heard:
		return refuse(IDInUse, "server %s lives at %s on %v: stop that one, or choose another --id for the one at %s on %v", c.ID, sv.Addr, sv.Host, c.Addr, c.Host)
	case !past && !sv.yields(c):
		return refuse(IDAwaited, "server %s was at %s on %v and is not given up yet: the one at %s on %v gets its id when it counts as down", c.ID, sv.Addr, sv.Host, c.Addr, c.Host)
	}
	return nil
}

// register begins a server's life, or notes what is new about the present one.
func (s *State) register(c *Register) *Refusal {
	if refusal := s.Registrable(c); refusal != nil {
		return refusal
	}
	sv := s.Servers[c.ID]
	switch {
	case sv == nil:
		sv = &Server{ID: c.ID, Incarnation: c.Incarnation}
		s.Servers[c.ID] = sv
		s.note(Event{Kind: EventServerJoined, Server: c.ID}, "server %s at %s with %s", c.ID, c.Addr, size(c.MemoryTotal))
	case sv.Incarnation == c.Incarnation:
	default:
		s.note(Event{Kind: EventServerRestarted, Server: c.ID}, "server %s was started again at %s: what it held is gone", c.ID, c.Addr)
		s.loseMembers(sv)
		// A registration that was delayed until its sender was dead and
		// followed came in between: the present life is the ghost then, and
		// the one that it drove out is back.
		sv.Past = slices.DeleteFunc(sv.Past, func(i raid.Incarnation) bool { return i == c.Incarnation })
		sv.Past = append(sv.Past, sv.Incarnation)
		if extra := len(sv.Past) - pastIncarnations; extra > 0 {
			sv.Past = slices.Delete(sv.Past, 0, extra)
		}
		sv.Incarnation, sv.Unverified = c.Incarnation, false
		sv.Short, sv.Wanted = false, 0
		sv.Unknown, sv.UnknownBytes = 0, 0
	}
	sv.Addr, sv.Host, sv.Folder, sv.Build = c.Addr, c.Host, c.Folder, c.Build
	sv.Labels = maps.Clone(c.Labels)
	sv.MemoryTotal = c.MemoryTotal
	if sv.Incarnation == c.Incarnation {
		s.noteState(sv, ServerUp)
	}
	sv.State, sv.Away, sv.Silent, sv.Together = ServerUp, 0, 0, false
	s.touchServer(sv.ID)
	return nil
}

// yields reports whether the id may go to a server that began anew. What this one holds
// is lost then, so it must have ended: a process on the same boot of the same machine
// that has its state folder, or if one of them has none, its address, shows that.
// Everybody else waits until it is down and says nothing. A clone has the folder and the address, and is
// another machine or another boot.
func (s *Server) yields(c *Register) bool {
	switch {
	case s.State == ServerDown && !c.Heard: // one that accepts nobody is heard
		return true
	case !s.Host.is(c.Host):
		return false
	case s.Folder != "" && c.Folder != "":
		return s.Folder == c.Folder
	}
	return s.Addr == c.Addr
}

// loseMembers marks all that a server held as lost; what it had reserved went
// with its memory. It gives the number of members.
func (s *State) loseMembers(sv *Server) int {
	lost, draining := 0, sv.Draining
	sv.Draining = false // that it holds nothing then is no merit of that
	all := s.giveUp(s.heldBy(sv.ID))
	s.noteVolumes(Event{Kind: EventMembersLost, Server: sv.ID}, all, func(t told, whose string) string {
		return fmt.Sprintf("%s lost %d members with server %s", whose, t.count, sv.ID)
	})
	for _, t := range all {
		lost += int(t.count)
	}
	sv.Draining, sv.Chunks, sv.Reserved, sv.Freeing = draining, 0, 0, nil
	s.touchServer(sv.ID)
	return lost
}

// giveUp marks members as lost, and drops pending ones: chunks of one server, as heldBy
// lists them. It gives how many each volume lost that lost any.
func (s *State) giveUp(refs []ChunkRef) (all []told) {
	for len(refs) > 0 {
		v := s.Volumes[refs[0].Volume]
		lost := uint64(0)
		for len(refs) > 0 && refs[0].Volume == v.ID {
			g, col := int(refs[0].Group), int(refs[0].Col)
			if refs[0].Pending {
				at, _ := v.Groups[g].pending(col)
				s.cancelPending(v, g, at)
			} else {
				s.loseMember(v, g, col)
				lost++
			}
			refs = refs[1:]
		}
		s.newVersion(v)
		if lost > 0 {
			all = append(all, told{volume: v.Name, count: lost})
		}
	}
	return all
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
	if c.Still && sv.State != ServerSuspect {
		return nil
	}
	s.noteState(sv, c.State)
	switch {
	case c.State == ServerUp:
		sv.Away = 0
	case sv.State == ServerUp:
		sv.Away = s.now
	}
	sv.State, sv.Silent, sv.Together = c.State, 0, false
	if c.State == ServerSuspect {
		sv.Silent, sv.Together = max(c.Silent, 0), c.Together
	}
	if c.MemoryTotal != 0 {
		sv.MemoryTotal = c.MemoryTotal
	}
	s.touchServer(sv.ID)
	return nil
}

// noteState tells that a server is seen differently.
func (s *State) noteState(sv *Server, is ServerState) {
	if is == sv.State {
		return
	}
	switch is {
	case ServerUp:
		s.note(Event{Kind: EventServerUp, Server: sv.ID}, "server %s is heard again", sv.ID)
	case ServerSuspect:
		s.note(Event{Kind: EventServerSuspect, Server: sv.ID}, "server %s misses its heartbeats", sv.ID)
	default:
		what := "it holds nothing"
		if sv.Chunks > 0 {
			what = fmt.Sprintf("what it holds (members: %d) is replaced where that is possible", sv.Chunks)
		}
		s.note(Event{Kind: EventServerDown, Server: sv.ID}, "server %s missed its heartbeats for the whole grace: %s", sv.ID, what)
	}
}

func (s *State) removeServer(c *RemoveServer) (any, *Refusal) {
	sv := s.Servers[c.ID]
	switch {
	case sv == nil:
		return nil, refuse(NotFound, "no server %s", c.ID)
	case sv.State == ServerUp:
		return nil, refuse(IDInUse, "server %s is up and would register again: stop it first", c.ID)
	case sv.Chunks > 0 && !c.Force:
		return nil, refuse(HoldsChunks, "server %s holds %d chunks%s: bring it back and drain it, delete the volumes, or force its removal", c.ID, sv.Chunks, lossText(s.Losses(c.ID)))
	}
	r := Removed{Losses: s.Losses(c.ID)}
	s.note(Event{Kind: EventServerRemoved, Server: c.ID}, "server %s was removed%s", c.ID, lossText(r.Losses))
	r.Members = s.loseMembers(sv)
	delete(s.Servers, c.ID)
	return r, nil
}

func (s *State) freed(c *Freed) *Refusal {
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return refusal
	}
	for _, id := range c.Chunks {
		s.forget(sv, id)
	}
	s.touchServer(sv.ID)
	return nil
}
