package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"dmps/raid"
)

// Healing gives a group new members for those that it misses. What is missing
// is a lost member, and one whose server is down. A group is healed when K
// others are there to fill the new one from: a member that is merely down may
// be the only one that still holds something, and is not given up before.
//
// When so many members are lost that no return of others could give back what
// they held, there is nothing to wait for: the lost ones are replaced, so that
// pages can be written again. They stay in state rebuilding, as no witnesses of
// what the group held, until its client has nothing left there that they miss.
// Members that are merely away are never given up for that.
//
// Members of draining servers are moved: a pending one is filled while they
// still count (Group.Pending). So are some of servers that are short of memory
// (shortage.go), and those whose servers have no memory for them (refused.go).
//
// Nobody has anything in a volume that no client has opened: there, a new member
// is in sync from the beginning.

// step is one change of a healing plan.
type step struct {
	v     *Volume
	group int
	col   int
	kind  stepKind
	to    raid.ServerID // replace, move, inherit
	by    Level         // replace, move: the level at which the new member is apart
	stay  bool          // move: the new member belongs there

	refused bool // move: the member's server has no memory for it
}

type stepKind uint8

const (
	stepReplace stepKind = iota // a missing member by a new one
	stepPromote                 // a missing member by its pending one
	stepCancel                  // a pending member whose server is down or draining
	stepMove                    // a living member: a pending one is added
	stepInherit                 // a member whose home was removed: it belongs elsewhere
)

// Healed is the result of Heal.
type Healed struct {
	Steps int    // members that got a replacement, or whose pending one was given up
	More  bool   // Limit ended the plan
	Wait  int    // members of Heal.Volume whose turn comes when others are filled
	Stuck *Stuck // members of Heal.Volume that cannot be replaced; nil: none
}

// ailing is a group that misses members.
type ailing struct {
	v     *Volume
	group int
	cols  []int // that are missing

	refused bool // they are not: their servers have no memory for them
}

// healing is a plan in the making.
type healing struct {
	s       *State
	c       *Heal
	steps   []step
	more    bool
	pick    *picker
	filling map[raid.VolumeID]int // members that are rebuilding or pending
	wait    int                   // members of the volume asked for that must wait for their turn
	moves   int                   // pending members
	stuck   map[raid.VolumeID]*Stuck
	seated  map[*Group]*seats        // of the groups that the plan touches
	heirs   map[estate]raid.ServerID // of removed servers; empty: nobody can
	cover   map[raid.ServerID]uint64 // copysets, by server
	coined  map[string]bool          // copysets that heirs make
	evened  bool                     // Balance is done
	evening int                      // moves for Balance
	refused map[raid.ChunkID]bool    // Heal.Refused
}

// MayHeal reports whether a plan may find something to do. It is cheap.
func (s *State) MayHeal() bool {
	if s.lost > 0 || s.Balance != nil || s.toGoHome() {
		return true
	}
	for _, sv := range s.Servers {
		if sv.Chunks > 0 && (sv.State == ServerDown || sv.Draining || sv.Wanted > 0) {
			return true
		}
	}
	for _, v := range s.Volumes {
		if v.Stuck != nil {
			return true // to be cleared
		}
	}
	return false
}

// WouldHeal reports whether the command would change anything.
func (s *State) WouldHeal(c *Heal) bool {
	p := s.planHeal(c)
	return len(p.steps) > 0 || p.evened || !p.more && !s.sameStuck(p.stuck)
}

// PlanHeal tells what the command would do, and changes nothing.
func (s *State) PlanHeal(c *Heal) Healed {
	p := s.planHeal(c)
	return Healed{Steps: len(p.steps), More: p.more, Wait: p.wait, Stuck: p.stuck[c.Volume]}
}

// Suspects are the suspect servers that hold members of a volume.
func (s *State) Suspects(v *Volume) (out []raid.ServerID) {
	for _, g := range v.Groups {
		for _, m := range g.Members {
			if m.State == raid.MemberLost || s.Servers[m.Server].State != ServerSuspect || slices.Contains(out, m.Server) {
				continue
			}
			out = append(out, m.Server)
		}
	}
	slices.Sort(out)
	return out
}

func (s *State) sameStuck(stuck map[raid.VolumeID]*Stuck) bool {
	for _, v := range s.Volumes {
		if is := stuck[v.ID]; (is == nil) != (v.Stuck == nil) || is != nil && *is != *v.Stuck {
			return false
		}
	}
	return true
}

// planHeal decides what Heal does, and changes nothing.
func (s *State) planHeal(c *Heal) *healing {
	p := &healing{
		s: s, c: c, pick: newPicker(s, c.Full...),
		filling: map[raid.VolumeID]int{}, stuck: map[raid.VolumeID]*Stuck{}, seated: map[*Group]*seats{},
		refused: map[raid.ChunkID]bool{},
	}
	for _, id := range c.Refused {
		p.refused[id] = true
	}
	var todo, refused []ailing
	var moving []ailing
	relief := newRelief()
	for _, k := range s.concerned(c) {
		v, g := s.Volumes[k.Volume], int(k.Group)
		missing, leaving := p.look(v, g, relief)
		if len(missing) > 0 {
			todo = append(todo, ailing{v: v, group: g, cols: missing})
		}
		if len(leaving) > 0 {
			moving = append(moving, ailing{v: v, group: g, cols: leaving})
		}
		if cols := p.refusedOf(v, g); len(cols) > 0 {
			refused = append(refused, ailing{v, g, cols, true})
		}
	}
	left := func(a ailing) int { return a.v.Geometry.M - len(a.cols) }
	slices.SortStableFunc(todo, func(a, b ailing) int { return cmp.Compare(left(a), left(b)) })
	for _, a := range todo {
		p.replace(a)
	}
	if c.Volume != 0 {
		return p
	}
	for _, a := range append(refused, moving...) {
		p.move(a)
	}
	p.relieve(relief)
	p.homecoming()
	if s.Balance != nil && !p.more {
		p.balance()
	}
	return p
}

// concerned lists the groups that a plan has to look at, in their order.
func (s *State) concerned(c *Heal) []GroupKey {
	if c.Volume != 0 {
		v := s.Volumes[c.Volume]
		if v == nil {
			return nil
		}
		keys := make([]GroupKey, len(v.Groups))
		for g := range keys {
			keys[g] = GroupKey{v.ID, raid.GroupID(g)}
		}
		return keys
	}
	keys := slices.Collect(maps.Keys(s.index.restless))
	for _, id := range c.Refused {
		if ref, ok := s.chunks[id]; ok {
			keys = append(keys, GroupKey{ref.Volume, ref.Group})
		}
	}
	for id := range s.index.held {
		if sv := s.Servers[id]; sv.State == ServerDown || sv.emptying() {
			for _, ref := range s.heldBy(id) {
				keys = append(keys, GroupKey{ref.Volume, ref.Group})
			}
		}
	}
	slices.SortFunc(keys, GroupKey.Compare)
	return slices.Compact(keys)
}

// look finds the columns of a group that are missing, and those that are to leave their
// servers. Pending members that nobody waits for any more are given up.
func (p *healing) look(v *Volume, g int, relief *relief) (missing, leaving []int) {
	group := v.Groups[g]
	for col, m := range group.Members {
		_, pending := group.pending(col)
		switch {
		case p.missing(m):
			missing = append(missing, col)
		case p.refused[m.Chunk]: // nothing is filled there, and nothing is to leave
		case m.State == raid.MemberRebuilding:
			if !group.bereft(v.Geometry.K) {
				p.filling[v.ID]++
			}
		case p.s.Servers[m.Server].Draining && !pending:
			leaving = append(leaving, col)
		case p.s.Servers[m.Server].Short:
			relief.note(v, g, col, m.Server, pending)
		}
	}
	for _, pd := range group.Pending {
		sv := p.s.Servers[pd.Member.Server]
		if sv.State == ServerDown || sv.emptying() || p.refused[pd.Member.Chunk] || p.away(sv) && p.missing(group.Members[pd.Col]) {
			p.add(step{v: v, group: g, col: int(pd.Col), kind: stepCancel})
			continue
		}
		p.filling[v.ID]++
		p.moves++
	}
	return missing, leaving
}

// missing reports whether a member is not there, and will not be, or not soon
// enough for who asked for its volume.
func (p *healing) missing(m Member) bool {
	if m.State == raid.MemberLost {
		return true
	}
	return p.away(p.s.Servers[m.Server])
}

func (p *healing) away(sv *Server) bool {
	return sv.State == ServerDown || sv.State == ServerSuspect && p.c.Volume != 0
}

func (p *healing) add(st step) bool {
	if len(p.steps) >= p.c.Limit {
		p.more = true
		return false
	}
	p.steps = append(p.steps, st)
	return true
}

// seatsOf is a group's seats as the plan leaves them.
func (p *healing) seatsOf(g *Group) *seats {
	t := p.seated[g]
	if t == nil {
		t = newSeats(g)
		p.seated[g] = t
	}
	return t
}

// hold notes why a member is not replaced.
func (p *healing) hold(v *Volume, members int, format string, a ...any) *Stuck {
	st := p.stuck[v.ID]
	if st == nil {
		st = &Stuck{Reason: fmt.Sprintf(format, a...)}
		p.stuck[v.ID] = st
	}
	st.Members += uint64(members)
	return st
}

// bereft reports whether a group has lost what cannot come back: fewer than K
// of its members hold everything, here or on servers that are away. What its
// new members lack cannot be filled in, only written anew.
func (g *Group) bereft(k int) bool {
	n := 0
	for _, m := range g.Members {
		if m.State == raid.MemberInSync {
			n++
		}
	}
	return n < k
}

// replaceable gives the missing members of a group that may get a replacement.
// The others are held, and why is noted.
func (p *healing) replaceable(a ailing) (cols []int) {
	group, k := a.v.Groups[a.group], a.v.Geometry.K
	sources := 0
	for _, m := range group.Members {
		if m.State == raid.MemberInSync && !p.missing(m) {
			sources++
		}
	}
	switch {
	case a.v.fresh() || sources >= k:
		return a.cols
	case !group.bereft(k):
		p.hold(a.v, len(a.cols), "group %d: %d of the %d members that are needed to rebuild are there: it waits for the servers that are down", a.group, sources, k)
		return nil
	case a.v.Kind != raid.LayoutLog:
		// What replaced it would read as zeros: there are no headers to tell.
		p.hold(a.v, len(a.cols), "group %d: what it held is gone, and layout %v cannot go on without: delete the volume", a.group, a.v.Kind)
		return nil
	}
	for _, col := range a.cols {
		if group.Members[col].State == raid.MemberLost {
			cols = append(cols, col)
			continue
		}
		p.hold(a.v, 1, "group %d, member %d: server %s is away and may hold the last copies of pages: bring it back, or, if it is gone for good, give it up: dmps server remove %s --force", a.group, col, group.Members[col].Server, group.Members[col].Server)
	}
	return cols
}

// replace plans new members for a group.
func (p *healing) replace(a ailing) {
	group := a.v.Groups[a.group]
	fresh := a.v.fresh()
	unlimited := fresh || group.bereft(a.v.Geometry.K) // nothing is pulled for them
	seats := p.seatsOf(group)
	for _, col := range p.replaceable(a) {
		if i, ok := group.pending(col); ok {
			pd := group.Pending[i].Member
			if sv := p.s.Servers[pd.Server]; !p.away(sv) && !sv.emptying() && !p.refused[pd.Chunk] {
				p.add(step{v: a.v, group: a.group, col: col, kind: stepPromote})
				continue
			}
			delete(seats.pending, col) // it is given up in the same plan
		}
		if !unlimited && p.c.Rebuilding > 0 && p.filling[a.v.ID] >= p.c.Rebuilding {
			p.wait++
			continue // its turn comes
		}
		to, by, why := p.pick.choose(a.v, seats, a.group, col, group.Members[col].State == raid.MemberLost)
		if why != "" {
			p.hold(a.v, 1, "group %d, member %d: %s", a.group, col, why).Room = true
			continue
		}
		if !p.add(step{v: a.v, group: a.group, col: col, kind: stepReplace, to: to, by: by}) {
			return
		}
		seats.members[col], seats.lost[col] = to, false
		if !unlimited {
			p.filling[a.v.ID]++
		}
	}
}

// move plans pending members for members whose servers are drained.
func (p *healing) move(a ailing) {
	group := a.v.Groups[a.group]
	fresh := a.v.fresh()
	if a.v.Kind != raid.LayoutLog && !fresh {
		p.hold(a.v, len(a.cols), "layout %v cannot be moved off a server: delete the volume", a.v.Kind).Room = true
		return
	}
	seats := p.seatsOf(group)
	for _, col := range a.cols {
		if !fresh && (p.moves >= p.c.Moves || p.c.Rebuilding > 0 && p.filling[a.v.ID] >= p.c.Rebuilding) {
			continue // its turn comes
		}
		to, by, why := p.pick.choose(a.v, seats, a.group, col, false)
		if why != "" && a.refused {
			continue // it may still get its memory; its client tells of it
		}
		if why != "" {
			p.hold(a.v, 1, "group %d, member %d cannot leave server %s: %s", a.group, col, group.Members[col].Server, why).Room = true
			continue
		}
		stay := a.refused && group.Members[col].home() == group.Members[col].Server // it does not go back there
		if !p.add(step{v: a.v, group: a.group, col: col, kind: stepMove, to: to, by: by, stay: stay, refused: a.refused}) {
			return
		}
		seats.pending[col] = to
		if !fresh {
			p.filling[a.v.ID]++
			p.moves++
		}
	}
}

// heal carries a plan out.
func (s *State) heal(c *Heal) Healed {
	p := s.planHeal(c)
	changed := map[raid.VolumeID]*Volume{}
	for _, st := range p.steps {
		s.take(st)
		if st.kind != stepInherit { // which no layout shows
			changed[st.v.ID] = st.v
		}
	}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		s.newVersion(changed[id])
	}
	s.noteHealed(p.steps)
	if c.Volume != 0 {
		// What is stuck in an ordinary plan is another question.
		return Healed{Steps: len(p.steps), More: p.more, Wait: p.wait, Stuck: p.stuck[c.Volume]}
	}
	s.balanced(p)
	if !p.more {
		var stuck []told
		why := ""
		for _, v := range s.SortedVolumes() {
			is := p.stuck[v.ID]
			if (is == nil) == (v.Stuck == nil) && (is == nil || *is == *v.Stuck) {
				continue
			}
			v.Stuck = is
			s.touchVolume(v.ID)
			if is != nil {
				stuck, why = append(stuck, told{volume: v.Name, count: is.Members}), is.Reason
			}
		}
		s.noteVolumes(Event{Kind: EventMembersStuck}, stuck, func(t told, whose string) string {
			if t.volume == "" {
				return fmt.Sprintf("%d members of %s cannot be replaced, those of volume %s: %s", t.count, whose, stuck[len(stuck)-1].volume, why)
			}
			v, _ := s.VolumeByName(t.volume)
			return fmt.Sprintf("%d members of %s cannot be replaced: %s", t.count, whose, v.Stuck.Reason)
		})
	}
	return Healed{Steps: len(p.steps), More: p.more}
}

// noteHealed tells what a plan did.
func (s *State) noteHealed(steps []step) {
	replaced, moving, givenUp, refused := map[raid.VolumeID]tally{}, map[raid.VolumeID]tally{}, map[raid.VolumeID]tally{}, map[raid.VolumeID]tally{}
	count := func(of map[raid.VolumeID]tally, v *Volume, on raid.ServerID) {
		if of[v.ID] == nil {
			of[v.ID] = tally{}
		}
		of[v.ID][on]++
	}
	for _, st := range steps {
		switch st.kind {
		case stepReplace:
			count(replaced, st.v, st.to)
		case stepPromote:
			count(replaced, st.v, st.v.Groups[st.group].Members[st.col].Server)
		case stepMove:
			if st.refused {
				count(refused, st.v, st.v.Groups[st.group].Members[st.col].Server)
				continue
			}
			count(moving, st.v, st.to)
		case stepCancel:
			count(givenUp, st.v, "")
		}
	}
	tell := func(kind string, of map[raid.VolumeID]tally, text func(t told, whose string) string) {
		var all []told
		for _, id := range slices.Sorted(maps.Keys(of)) {
			all = append(all, told{s.Volumes[id].Name, of[id].total(), of[id]})
		}
		s.noteVolumes(Event{Kind: kind}, all, text)
	}
	tell(EventMembersReplaced, replaced, func(t told, whose string) string {
		return fmt.Sprintf("%d members of %s are replaced: on %v", t.count, whose, t.on)
	})
	tell(EventMembersMoving, moving, func(t told, whose string) string {
		return fmt.Sprintf("%d members of %s move: to %v", t.count, whose, t.on)
	})
	tell(EventMovesGivenUp, givenUp, func(t told, whose string) string {
		return fmt.Sprintf("%d moves of members of %s were given up: their new servers are down or drained, or have no memory", t.count, whose)
	})
	tell(EventMembersElsewhere, refused, func(t told, whose string) string {
		return fmt.Sprintf("%d members of %s are placed elsewhere: their servers refuse memory: %v", t.count, whose, t.on)
	})
}

// take carries one step out.
func (s *State) take(st step) {
	v, group := st.v, st.v.Groups[st.group]
	ref := ChunkRef{Volume: v.ID, Group: raid.GroupID(st.group), Col: raid.Col(st.col)}
	at, pending := group.pending(st.col)
	fresh := v.fresh()
	switch st.kind {
	case stepCancel:
		s.cancelPending(v, st.group, at)
		return
	case stepPromote:
		s.degraded(group, group.Members[st.col])
		s.promote(v, st.group, at, raid.MemberRebuilding)
		return
	case stepInherit:
		if !group.belongsTo(st.to) {
			group.settle(st.col, st.to)
		}
		s.touchGroup(v.ID, st.group)
		return
	case stepReplace:
		m := &group.Members[st.col]
		home := m.home()
		s.degraded(group, *m)
		if m.State == raid.MemberLost {
			s.lost--
		} else {
			s.orphan(v, ref.Col, *m)
		}
		*m = s.give(v, st.to, ref, raid.MemberRebuilding)
		group.settle(st.col, home)
		if fresh {
			s.inSync(v, st.group, st.col)
		}
	case stepMove:
		if pending {
			panic(fmt.Sprintf("volume %d group %d: a second pending member %d", v.ID, st.group, st.col))
		}
		ref.Pending = true
		p := Pending{Col: ref.Col, Member: s.give(v, st.to, ref, raid.MemberRebuilding), Stays: st.stay}
		group.Pending = slices.Insert(group.Pending, at, p)
		if fresh {
			s.promote(v, st.group, at, raid.MemberInSync)
		}
	}
	if st.by != v.PlacedBy && slices.Contains(st.by.wider(), v.PlacedBy) {
		v.PlacedBy = st.by // finer, but what was asked for
	}
}

// Filling keeps those of a volume's chunks that are being filled.
func (s *State) Filling(volume raid.VolumeID, chunks []uint64) (out []raid.ChunkID) {
	for _, c := range chunks {
		ref, ok := s.chunks[raid.ChunkID(c)]
		if !ok || ref.Volume != volume {
			continue
		}
		if ref.Pending || s.Volumes[volume].Groups[ref.Group].Members[ref.Col].State == raid.MemberRebuilding {
			out = append(out, raid.ChunkID(c))
		}
	}
	return out
}

// rebuilt puts members in sync that hold everything by now.
func (s *State) rebuilt(c *Rebuilt) *Refusal {
	if refusal := s.Renewable(c.Volume, c.Epoch); refusal != nil {
		return refusal
	}
	v := s.Volumes[c.Volume]
	if c.Known < v.Behind {
		return nil // members fell behind since: the holder will say it again
	}
	var rebuilt, moved uint64
	for _, id := range c.Chunks {
		ref, ok := s.chunks[id]
		if !ok || ref.Volume != v.ID {
			continue // replaced meanwhile
		}
		g, col := int(ref.Group), int(ref.Col)
		group := v.Groups[g]
		switch {
		case ref.Pending:
			at, _ := group.pending(col)
			s.promote(v, g, at, raid.MemberInSync)
			moved++
		case group.Members[col].State == raid.MemberRebuilding:
			s.inSync(v, g, col)
			rebuilt++
		}
	}
	if rebuilt+moved > 0 {
		s.newVersion(v)
	}
	if rebuilt > 0 {
		s.noteFolded(Event{Kind: EventMembersRebuilt, Volume: v.Name, Count: rebuilt}, "hold everything again")
	}
	if moved > 0 {
		s.noteFolded(Event{Kind: EventMembersMoved, Volume: v.Name, Count: moved}, "have moved")
	}
	return nil
}
