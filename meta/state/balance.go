package state

import (
	"cmp"
	"slices"

	"dmps/raid"
)

// Balance is the wish to even out the servers' memory use.
type Balance struct {
	Threshold int    `json:"threshold"` // percent between the fullest and the emptiest that is good enough
	Moved     uint64 `json:"moved"`     // members so far
}

const defaultThreshold = 5 // percent

// rebalance notes the wish, or drops it; moves that began go on.
func (s *State) rebalance(c *Rebalance) *Refusal {
	switch {
	case c.Threshold < 0 || c.Threshold > 100:
		return refuse(Invalid, "rebalance: a threshold of %d percent: must be 1 to 100", c.Threshold)
	case c.Off && s.Balance == nil:
		return nil
	case c.Off:
		s.note(Event{Kind: EventRebalanceEnded, Count: s.Balance.Moved}, "rebalancing was stopped after %d moves", s.Balance.Moved)
		s.Balance = nil
	default:
		b := &Balance{Threshold: c.Threshold}
		if b.Threshold == 0 {
			b.Threshold = defaultThreshold
		}
		if s.Balance != nil {
			b.Moved = s.Balance.Moved
		}
		s.Balance = b
		s.note(Event{Kind: EventRebalanceStarted}, "memory use of the servers is evened out to %d %%", b.Threshold)
	}
	s.touched.Root = true
	return nil
}

// balanced notes what a plan did for Balance.
func (s *State) balanced(p *healing) {
	if s.Balance == nil {
		return
	}
	if p.evening > 0 {
		s.Balance.Moved += uint64(p.evening)
		s.touched.Root = true
	}
	if p.evened {
		s.note(Event{Kind: EventRebalanceEnded, Count: s.Balance.Moved}, "memory use is even, after %d moves", s.Balance.Moved)
		s.Balance = nil
		s.touched.Root = true
	}
}

// load is a server during the planning of moves.
type load struct {
	at     int    // index in picker.cands
	used   uint64 // bytes once all moves under way are done
	total  uint64
	seats  []seat // members that may move, once looked
	looked bool
}

type seat struct {
	v     *Volume
	group int
	col   int
}

// share is the part of its memory that a server would have used with more
// bytes.
func (l *load) share(more uint64) float64 { return float64(l.used+more) / float64(l.total) }

// balance plans moves from the fullest servers to the emptiest, one at a time:
// each ends with both less full than the fuller one was, so that the sorted
// list of shares falls with every move and planning ends.
func (p *healing) balance() {
	loads := p.loads()
	busy := p.moves > 0
	for {
		if p.moves >= p.c.Moves {
			return // its turn comes
		}
		if !p.moveOne(loads) {
			break
		}
		busy = true
		if p.more {
			return
		}
	}
	p.evened = !busy
}

// loads lists the servers that take part.
func (p *healing) loads() []*load {
	var out []*load
	byID := map[raid.ServerID]*load{}
	p.pick.ready()
	for i, c := range p.pick.cands {
		if c.MemoryTotal == 0 {
			continue
		}
		l := &load{at: i, used: c.MemoryTotal - min(c.free, c.MemoryTotal), total: c.MemoryTotal}
		for _, n := range c.Freeing {
			l.used -= min(n, l.used)
		}
		out = append(out, l)
		byID[c.ID] = l
	}
	leaves := func(v *Volume, g, col int) {
		if l := byID[v.Groups[g].Members[col].Server]; l != nil {
			l.used -= min(v.chunkBytes(col), l.used)
		}
	}
	for k := range p.s.index.restless {
		v := p.s.Volumes[k.Volume]
		for _, pd := range v.Groups[k.Group].Pending {
			leaves(v, int(k.Group), int(pd.Col))
		}
	}
	for _, st := range p.steps {
		if st.kind == stepMove {
			leaves(st.v, st.group, st.col)
		}
	}
	return out
}

// mayMove lists the members that may move off a server: of whole groups, which nothing
// else is about to change.
func (p *healing) mayMove(id raid.ServerID) (out []seat) {
	for _, ref := range p.s.heldBy(id) {
		v, col := p.s.Volumes[ref.Volume], int(ref.Col)
		group := v.Groups[ref.Group]
		_, pending := group.pending(col)
		if t := p.seated[group]; t != nil {
			_, pending = t.pending[col]
		}
		switch {
		case pending || ref.Pending || v.Kind != raid.LayoutLog && !v.fresh():
		case !group.whole() || slices.ContainsFunc(group.Members, p.missing):
		default:
			out = append(out, seat{v, int(ref.Group), col})
		}
	}
	return out
}

// moveOne plans the next move, if there is one that helps.
func (p *healing) moveOne(loads []*load) bool {
	order := slices.Clone(loads)
	slices.SortStableFunc(order, func(a, b *load) int { return cmp.Compare(b.share(0), a.share(0)) })
	least := float64(p.s.Balance.Threshold) / 100
	for _, from := range order {
		for _, to := range slices.Backward(order) {
			if from.share(0)-to.share(0) <= least {
				break
			}
			if !from.looked {
				from.seats, from.looked = p.mayMove(p.pick.cands[from.at].ID), true
			}
			for i, st := range from.seats {
				fresh := st.v.fresh()
				if !fresh && p.c.Rebuilding > 0 && p.filling[st.v.ID] >= p.c.Rebuilding {
					continue
				}
				cand := &p.pick.cands[to.at]
				bytes := st.v.chunkBytes(st.col)
				seats := p.seatsOf(st.v.Groups[st.group])
				if cand.free < bytes || to.share(bytes) >= from.share(0) ||
					slices.Contains(seats.homes, cand.ID) || !p.pick.seatable(st.v, seats, st.col, cand.ID, st.v.PlacedBy, false) {
					continue
				}
				if !p.add(step{v: st.v, group: st.group, col: st.col, kind: stepMove, to: cand.ID, by: st.v.PlacedBy, stay: true}) {
					return false
				}
				p.evening++
				seats.pending[st.col] = cand.ID
				cand.free -= bytes
				to.used += bytes
				from.used -= min(bytes, from.used)
				from.seats = slices.Delete(from.seats, i, i+1)
				if !fresh {
					p.filling[st.v.ID]++
					p.moves++
				}
				return true
			}
		}
	}
	return false
}
