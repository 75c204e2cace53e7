package raid

import (
	"slices"

	"pgregory.net/rapid"
)

// simErasure is an erasure on its way.
type simErasure struct {
	Erasure
	todo   uint32 // members that were not sent it completely
	failed uint32 // members whose session ended meanwhile
}

// stepErase starts an erasure.
func (s *sim) stepErase() {
	if !s.startErasure() {
		s.t.Skip("nothing to erase")
	}
	if rapid.Bool().Draw(s.t, "at once") {
		s.finishErasure(s.erasures[len(s.erasures)-1])
	}
}

func (s *sim) startErasure() bool {
	e := &simErasure{Erasure: Erasure{Group: GroupID(s.rnd.Uint32N(uint32(s.cfg.Groups)))}}
	if !s.log.TakeDoomed(&e.Erasure) {
		return false
	}
	e.todo = e.Members
	s.erasures = append(s.erasures, e)
	return true
}

// stepErased lets an erasure go on at one member, or end.
func (s *sim) stepErased() {
	if len(s.erasures) == 0 {
		s.t.Skip("nothing is being erased")
	}
	e := rapid.SampledFrom(s.erasures).Draw(s.t, "erasure")
	c := Col(rapid.IntRange(0, s.cfg.Geometry.Members()-1).Draw(s.t, "member"))
	if e.todo&(1<<c) != 0 && s.members[e.Group][c].up && e.failed&(1<<c) == 0 && rapid.Bool().Draw(s.t, "this one") {
		s.eraseAt(e, c, e.Rows)
		e.todo &^= 1 << c
		return
	}
	s.finishErasure(e)
}

// finishErasure ends an erasure at all members that are up. At one that went
// down it has an unknown outcome, until that returns (I10).
func (s *sim) finishErasure(e *simErasure) {
	for c, m := range s.members[e.Group] {
		switch bit := uint32(1) << c; {
		case e.todo&bit == 0:
			continue
		case m.lost:
			e.failed |= bit
		case !m.up:
			return
		case e.failed&bit == 0:
			s.eraseAt(e, Col(c), e.Rows)
		}
		e.todo &^= 1 << c
	}
	s.erasures = slices.DeleteFunc(s.erasures, func(o *simErasure) bool { return o == e })
	s.log.Erased(&e.Erasure, e.Members&^e.failed)
}

// eraseAt erases the first rows of e at member c.
func (s *sim) eraseAt(e *simErasure, c Col, rows int) {
	m := &s.members[e.Group][c]
	for _, i := range e.Index[:rows] {
		for _, r := range s.reads {
			if r.place.Group == e.Group && r.place.Index == i && r.place.Col == c {
				s.t.Fatalf("%+v is erased while a read is aimed at it", r.place)
			}
		}
		m.slots[i] = simSlot{}
	}
}

// compare is what package client does with a member that no recovery has read,
// before it is used.
func (s *sim) compare(g GroupID, c Col, m *simMember) {
	s.endReads(g, c)
	for i := range Index(s.cfg.Rows) {
		var h Header
		var err error
		if b := m.slots[i].header; b != nil {
			h, err = ParseHeader(b)
		}
		if !s.log.Expects(g, i, c, h, err == nil) {
			s.log.SetMissed(g, i, c)
		}
		if !s.log.Keeps(g, i, c, h, err == nil) {
			m.slots[i] = simSlot{}
		}
	}
	s.log.ForgetStale(g, c)
	m.unsure = false
}

// endReads ends the page-ins that are aimed at member c: so did its session.
func (s *sim) endReads(g GroupID, c Col) {
	s.reads = slices.DeleteFunc(s.reads, func(r simRead) bool { return r.place.Group == g && r.place.Col == c })
}

// stepReplace gives a lost member's place to another one, which is empty.
func (s *sim) stepReplace() {
	g, c, m := s.drawMember()
	if !m.lost {
		s.t.Skip("is not lost")
	}
	// What was on its way to the old one has ended with its session. What was
	// sent to it, the new one does not have.
	for _, op := range s.ops {
		op.failed = op.failed || op.p.Group == g && op.p.Members&(1<<c) != 0
	}
	for _, list := range [][]*simOp{s.ops, s.ghosts} {
		for _, op := range list {
			if op.p.Group == g {
				op.todo &^= 1 << c
			}
		}
	}
	for _, e := range s.erasures {
		if e.Group == g {
			e.todo &^= 1 << c
		}
	}
	s.endReads(g, c)
	*m = simMember{slots: make([]simSlot, s.cfg.Rows), filling: true}
	s.log.Replace(g, c)
	s.comeUp(g, c, m)
}

// stepRestore gives a member rows that it misses.
func (s *sim) stepRestore() {
	type who struct {
		g GroupID
		c Col
	}
	var all []who
	for g := range s.members {
		for c, m := range s.members[g] {
			if m.up && (m.filling || s.log.Missing(GroupID(g), Col(c)) > 0) {
				all = append(all, who{GroupID(g), Col(c)})
			}
		}
	}
	if len(all) == 0 {
		s.t.Skip("nothing is missed")
	}
	w := rapid.SampledFrom(all).Draw(s.t, "member")
	m := &s.members[w.g][w.c]
	rows, _ := s.log.MissingRows(w.g, w.c, 0, make([]MissingRow, 0, rapid.IntRange(1, 200).Draw(s.t, "rows")))
	for _, r := range rows {
		op := s.sent[s.rowSeq[w.g][r.Index]]
		k := slices.Index(op.p.Index[:op.p.Rows], r.Index)
		if TagOf(op.p.Seq) != r.Tag || k < 0 {
			s.t.Fatalf("row %d of group %d is not what was committed there last", r.Index, w.g)
		}
		m.slots[r.Index] = op.out[w.c][k]
		s.log.Restored(w.g, w.c, r)
	}
	m.filling = m.filling && s.log.Missing(w.g, w.c) > 0
}
