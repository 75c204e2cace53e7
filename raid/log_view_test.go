package raid

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// simView is the record of a view on its way.
type simView struct {
	View
	todo   uint32 // members that were not sent it
	failed uint32 // members whose session ended meanwhile
	to     [MaxData + MaxParity]*simMember
	second [MaxData + MaxParity]*simMember
}

func (s *sim) stepView() {
	if !s.startView() {
		s.t.Skip("every group has the view that it should have")
	}
	if rapid.Bool().Draw(s.t, "at once") {
		s.finishView(s.views[len(s.views)-1])
	}
}

func (s *sim) startView() bool {
	v := &simView{}
	if !s.log.TakeView(&v.View) {
		return false
	}
	v.todo = v.To
	copy(v.to[:], s.members[v.Group])
	copy(v.second[:], s.pending[v.Group])
	s.views = append(s.views, v)
	return true
}

func (s *sim) stepViewed() {
	if len(s.views) == 0 {
		s.t.Skip("none is on its way")
	}
	v := rapid.SampledFrom(s.views).Draw(s.t, "view")
	c := Col(rapid.IntRange(0, s.cfg.Geometry.Members()-1).Draw(s.t, "member"))
	if v.todo&(1<<c) != 0 && v.to[c].up && v.failed&(1<<c) == 0 && rapid.Bool().Draw(s.t, "this one") {
		s.putView(v, v.to[c])
		v.todo &^= 1 << c
		return
	}
	s.finishView(v)
}

func (s *sim) putView(v *simView, m *simMember) {
	if m != nil && !m.lost {
		m.slots[v.Index] = simSlot{header: s.viewBytes(v, m)}
	}
}

// viewBytes is the record in the size of the member's headers.
func (s *sim) viewBytes(v *simView, m *simMember) []byte {
	h := s.log.ViewHeader(&v.View)
	for _, list := range [][]*simMember{v.to[:], v.second[:]} {
		for c, o := range list {
			if o == m {
				b := make([]byte, HeaderBytes(s.cfg.Geometry, Col(c)))
				h.Put(b, make([]RowEntry, RowTable(b)))
				return b
			}
		}
	}
	return nil
}

// finishView ends a record at all members that are up. At one that went down it
// has an unknown outcome, until that returns (I10).
func (s *sim) finishView(v *simView) {
	for c, m := range v.to[:s.cfg.Geometry.Members()] {
		switch bit := uint32(1) << c; {
		case v.todo&bit == 0:
			continue
		case m.lost:
			v.failed |= bit
		case !m.up:
			return
		case v.failed&bit == 0:
			s.putView(v, m)
		}
		v.todo &^= 1 << c
	}
	second := uint32(0)
	for c, pd := range v.second[:s.cfg.Geometry.Members()] {
		if v.Second&(1<<c) != 0 && pd != nil && pd == s.pending[v.Group][c] && pd.up {
			s.putView(v, pd)
			second |= 1 << c
		}
	}
	s.views = slices.DeleteFunc(s.views, func(o *simView) bool { return o == v })
	s.log.Installed(&v.View, v.To&^v.failed, second)
}

// stepNote has it noted who is about to miss rows.
func (s *sim) stepNote() {
	if !s.noteAbsent() {
		s.t.Skip("nobody is to be noted")
	}
}

func (s *sim) noteAbsent() (some bool) {
	for g := range s.members {
		out := s.log.Unnoted(GroupID(g))
		for c, m := range s.members[g] {
			if out&(1<<c) != 0 {
				m.filling, some = true, true
				s.log.SetNoted(GroupID(g), Col(c), true, false)
			}
		}
	}
	return some
}

// settleLog does what an attach does before it serves a page. It reports false
// when there is no room to move what is unsure.
func (s *sim) settleLog() bool {
	s.log.StartSeq(FirstSeq(Epoch(s.lives)))
	fills := rapid.IntRange(0, 2).Draw(s.t, "unsure rows that are filled") // none, some, all
	for round := range 1000 {
		if round == 1 {
			s.useAll() // members that the recovery did not read come meanwhile
		}
		s.noteAbsent()
		if fills > 0 {
			s.fillUnsure(s.log.UnsureRows, fills > 1)
		}
		for s.startErasure() {
			s.finishErasure(s.erasures[len(s.erasures)-1])
		}
		for s.startView() {
			s.finishView(s.views[len(s.views)-1])
		}
		void, unsure, views := s.log.Unsettled()
		if void+unsure == 0 && views == 0 {
			s.log.Begin()
			return true
		}
		if unsure == 0 {
			if round > 5 {
				s.fillUnsure(s.log.MissingRows, true)
			}
			continue
		}
		if op := s.move(s.log.UnsureVictims(nil)); op != nil {
			s.finish(op)
		} else if s.log.SpareUnsure(); s.log.unsure == unsure {
			s.full = true
			return false
		}
	}
	for i := range s.log.groups {
		if g := &s.log.groups[i]; popcount(s.log.all()&^s.log.wholeOf(g)|g.noted) > s.cfg.Geometry.M {
			return false // too many are out, or lack rows
		}
	}
	s.t.Fatal("a recovery does not come to an end")
	return false
}

// fillUnsure gives members the rows that the recovery is not sure of, or others that they
// miss, or some of them.
func (s *sim) fillUnsure(rowsOf func(GroupID, Col, Index, []MissingRow) ([]MissingRow, Index), all bool) {
	for g := range s.members {
		for c, m := range s.members[g] {
			if !m.up {
				continue
			}
			rows, _ := rowsOf(GroupID(g), Col(c), 0, make([]MissingRow, 0, s.cfg.Rows))
			for _, r := range rows {
				if all || s.rnd.IntN(2) == 0 {
					s.restore(GroupID(g), Col(c), m, r)
				}
			}
		}
	}
	s.log.Complete()
}

// The newest record that a recovery finds may be at few members only. It is
// completed before the older one is written over.
func TestViewIsCompletedFirst(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, err := NewLog(LogConfig{Geometry: g, Groups: 1, Rows: 8, Pages: 8})
	if err != nil {
		t.Fatal(err)
	}
	record := func(seq Seq, i Index, members uint32) []byte {
		return encode(site(Header{Kind: KindView, Members: members, Seq: seq, Settled: seq - 1}, i), nil)
	}
	for c := range Col(3) {
		l.SetUp(0, c, true)
	}
	var rows [viewRows][][]byte
	rows[0] = [][]byte{record(4, 0, 0b111), record(4, 0, 0b111), nil}
	rows[1] = [][]byte{nil, record(6, 1, 0b011), nil}
	if ok, got := l.SetView(0, rows, 0), l.Witnesses(0).View; !ok || got != 0b011 {
		t.Fatalf("members %#b, %v", got, ok)
	}
	NewRecovery(l).Finish()
	l.SetUp(0, 2, false)
	l.StartSeq(100)
	var v View
	if !l.TakeView(&v) || v.Seq != 6 || v.Index != 1 || v.To != 0b001 || v.Members != 0b011 {
		t.Fatalf("%+v, not record 6 for member 0", v)
	}
	var second View
	if l.TakeView(&second) {
		t.Fatalf("%+v, while another is on its way", second)
	}
	l.Installed(&v, 0, 0) // member 0 failed
	if !l.TakeView(&v) || v.Seq != 6 {
		t.Fatalf("%+v, although record 6 is at one member", v)
	}
	l.Installed(&v, 0b001, 0)
	if !l.TakeView(&v) || v.Seq != 101 || v.Index != 0 || v.To != 0b011 || v.Settled != 100 {
		t.Fatalf("%+v, not a new record over the older one", v)
	}
	l.Installed(&v, 0b011, 0)
	if void, unsure, views := l.Unsettled(); void+unsure != 0 || views != 0 {
		t.Fatalf("void %d unsure %d views %d", void, unsure, views)
	}
	l.Begin()
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
}

// Who does not hold the record in force is not in sync by one that is on its way.
func TestInSyncHoldsTheRecord(t *testing.T) {
	g := logGroup{view: groupView{own: true, taken: true, seq: 5, tried: 6, members: 0b111, copies: 0b011, whole: 0b111, coming: 0b110}}
	if in := g.attested(); in != 0b010 {
		t.Errorf("in sync: %b", in)
	}
}
