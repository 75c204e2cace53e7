package state

import (
	"maps"
	"slices"

	"dmps/raid"
)

// reliefMoves is how many members of a server that is short of memory move at
// once: it has to serve them meanwhile.
const reliefMoves = 4

// emptying reports whether members are moved off the server, and none to it.
func (s *Server) emptying() bool { return s.Draining || s.Short }

// shortage notes what a server says of its host's memory. Moves that began go
// on when the shortage is over: the memory may be wanted again.
func (s *State) shortage(c *Shortage) *Refusal {
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return refusal
	}
	was := sv.Short
	sv.Short, sv.Wanted = c.Short, c.Wanted
	if !c.Short {
		sv.Wanted = 0
	}
	s.touchServer(sv.ID)
	switch {
	case sv.Short && !was:
		s.note(Event{Kind: EventServerShort, Server: sv.ID}, "server %s is short of memory and wants %s back: some of its %d members are moved away", sv.ID, size(sv.Wanted), sv.Chunks)
	case was && !sv.Short:
		s.note(Event{Kind: EventServerRelieved, Server: sv.ID}, "server %s is not short of memory any more, and has %d members", sv.ID, sv.Chunks)
	}
	return nil
}

// relief is what can be moved off servers that are short of memory, and what is
// on its way.
type relief struct {
	may   map[raid.ServerID][]seat
	bytes map[raid.ServerID]uint64 // of members that are leaving
	moves map[raid.ServerID]int
}

func newRelief() *relief {
	return &relief{may: map[raid.ServerID][]seat{}, bytes: map[raid.ServerID]uint64{}, moves: map[raid.ServerID]int{}}
}

// note takes a member of a server that is short.
func (r *relief) note(v *Volume, group, col int, id raid.ServerID, pending bool) {
	if !pending {
		r.may[id] = append(r.may[id], seat{v, group, col})
		return
	}
	r.moves[id]++
	r.bytes[id] += v.chunkBytes(col)
}

// relieve plans moves off servers that are short, a few at a time and no more
// than they want back.
func (p *healing) relieve(r *relief) {
	for _, id := range slices.Sorted(maps.Keys(r.may)) {
		sv := p.s.Servers[id]
		leaving, moves := r.bytes[id], r.moves[id]
		for _, n := range sv.Freeing {
			leaving += n
		}
		for _, st := range r.may[id] {
			if leaving >= sv.Wanted || moves >= reliefMoves || p.more {
				break
			}
			before := len(p.steps)
			p.move(ailing{v: st.v, group: st.group, cols: []int{st.col}})
			if len(p.steps) > before {
				leaving += st.v.chunkBytes(st.col)
				moves++
			}
		}
	}
}
