package raid

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// simErasure is an erasure on its way.
type simErasure struct {
	Erasure
	todo   uint32 // members that were not sent it completely
	failed uint32 // members whose session ended meanwhile
	to     [MaxData + MaxParity]*simMember
	second [MaxData + MaxParity]*simMember
	cut    uint32 // pending members whose session ended meanwhile
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
	copy(e.to[:], s.members[e.Group])
	for c, pd := range s.pending[e.Group] {
		if e.Second&(1<<c) != 0 {
			e.second[c] = pd
		}
	}
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
	if e.todo&(1<<c) != 0 && e.to[c].up && e.failed&(1<<c) == 0 && rapid.Bool().Draw(s.t, "this one") {
		s.eraseAt(e, c, e.Rows)
		e.todo &^= 1 << c
		return
	}
	s.finishErasure(e)
}

// finishErasure ends an erasure at all members that are up. At one that went
// down it has an unknown outcome, until that returns (I10).
func (s *sim) finishErasure(e *simErasure) {
	for c, m := range e.to[:s.cfg.Geometry.Members()] {
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
	s.log.Erased(&e.Erasure, e.Members&^e.failed, s.erasePending(e))
}

// erasePending ends an erasure at pending members, and gives those that have it.
// What is on its way to one that went down may have landed.
func (s *sim) erasePending(e *simErasure) (second uint32) {
	for c, pd := range e.second[:s.cfg.Geometry.Members()] {
		switch {
		case pd == nil || pd.lost:
		case e.cut&(1<<c) != 0 || !pd.up:
			for _, i := range e.Index[:s.rnd.Uint32N(uint32(e.Rows+1))] {
				if !pd.up {
					pd.slots[i] = s.erased(e.Group, Col(c), i, e.Seq)
				}
			}
		default:
			for _, i := range e.Index[:e.Rows] {
				pd.slots[i] = s.erased(e.Group, Col(c), i, e.Seq)
			}
			second |= 1 << c
		}
	}
	return second
}

// eraseAt erases the first rows of e at member c.
func (s *sim) eraseAt(e *simErasure, c Col, rows int) {
	m := e.to[c]
	for _, i := range e.Index[:rows] {
		for _, r := range s.reads {
			if m == s.members[e.Group][c] && r.place.Group == e.Group && r.place.Index == i && r.place.Col == c {
				s.t.Fatalf("%+v is erased while a read is aimed at it", r.place)
			}
		}
		m.slots[i] = s.erased(e.Group, c, i, e.Seq)
	}
}

// erased is a slot of which all is dead up to seq.
func (s *sim) erased(g GroupID, c Col, i Index, seq Seq) simSlot {
	b := make([]byte, HeaderBytes(s.cfg.Geometry, c))
	PutErased(b, s.log.Site(g, i), seq)
	return simSlot{header: b}
}

// header is what lies in row i of m, which is or was member c of group g.
func (s *sim) header(g GroupID, c Col, m *simMember, i Index) []byte {
	if b := m.slots[i].header; b != nil {
		return b
	}
	return s.erased(g, c, i, 0).header
}

// compare is what package client does with a member that no recovery has read,
// before it is used.
func (s *sim) compare(g GroupID, c Col, m *simMember) {
	s.endReads(g, c)
	s.log.ForgetStale(g, c)
	for i := Index(viewRows); i < Index(s.cfg.Rows); i++ {
		h, err := ParseHeader(s.header(g, c, m, i))
		sound := err == nil && h.Kind != KindEmpty
		if !s.log.Expects(g, i, c, h, sound) {
			s.log.SetMissed(g, i, c)
		}
		dead, erase := s.log.Leftover(g, i, c, h, sound, false)
		switch {
		case erase:
			m.slots[i] = s.erased(g, c, i, dead)
		case sound && h.Holds() && s.log.Holders(g, i)&(1<<c) == 0:
			m.more = true
		}
	}
	m.unsure = false
}

// endReads ends the page-ins that are aimed at member c: so did its session.
func (s *sim) endReads(g GroupID, c Col) {
	s.reads = slices.DeleteFunc(s.reads, func(r simRead) bool { return r.place.Group == g && r.place.Col == c })
}

// stepReplace gives a lost member's place to another one, which is empty.
func (s *sim) stepReplace() {
	g, c, m := s.drawMember()
	if !m.lost || s.pending[g][c] != nil {
		s.t.Skip("is not lost, or has a pending member, which would take its place")
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
	for _, v := range s.views {
		if v.Group == g {
			v.todo &^= 1 << c
		}
	}
	s.endReads(g, c)
	m = &simMember{slots: make([]simSlot, s.cfg.Rows), filling: true}
	s.members[g][c] = m
	s.log.Replace(g, c)
	s.log.SetNoted(g, c, true, false)
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
	m := s.members[w.g][w.c]
	rows, _ := s.log.MissingRows(w.g, w.c, 0, make([]MissingRow, 0, rapid.IntRange(1, 200).Draw(s.t, "rows")))
	for _, r := range rows {
		s.restore(w.g, w.c, m, r)
	}
	s.claim(w.g, w.c, m)
}

// restore gives a member a row that it misses.
func (s *sim) restore(g GroupID, c Col, m *simMember, r MissingRow) {
	op := s.bySeq[s.rowSeq[g][r.Index]]
	k := slices.Index(op.p.Index[:op.p.Rows], r.Index)
	if TagOf(op.p.Seq) != r.Tag || k < 0 {
		s.t.Fatalf("row %d of group %d is not what was committed there last", r.Index, g)
	}
	m.slots[r.Index] = op.out[c][k]
	s.log.Restored(g, c, r)
}

// claim tells the metadata service that a member holds everything, if it does.
func (s *sim) claim(g GroupID, c Col, m *simMember) {
	if m.filling && m.up && s.log.Missing(g, c) == 0 && s.log.InView(g, c) {
		m.filling = false
		s.log.SetNoted(g, c, false, false)
	}
}

// Which dead rows are erased, by whom, and when they are free.
func TestWhichRowsAreErased(t *testing.T) {
	const all = 0b1111
	newLog := func(t *testing.T, up uint32) *Log {
		l, err := NewLog(LogConfig{Geometry: recoveryGeometry, Groups: 1, Rows: 8, Pages: 12})
		if err != nil {
			t.Fatal(err)
		}
		for c := range Col(4) {
			l.SetUp(0, c, up&(1<<c) != 0)
		}
		return begin(l)
	}
	// up brings a member back, and into the view.
	up := func(l *Log, c Col) {
		l.SetUp(0, c, true)
		views(l)
	}
	write := func(t *testing.T, l *Log, page PageNo) {
		t.Helper()
		var p Placement
		if !l.Reserve(1, true, &p) {
			t.Fatal("no rows")
		}
		items := make([]Item, p.N)
		for i := range items {
			items[i] = Item{Kind: ItemCopy}
		}
		items[0] = Item{Page: page}
		l.Commit(&p, items, p.Members)
		l.Advance()
		l.Advance()
	}
	expect := func(t *testing.T, l *Log, doomed, free uint64) {
		t.Helper()
		if st := l.Stats(); st.Doomed != doomed || st.FreeRows != free {
			t.Fatalf("%d doomed and %d free, want %d and %d", st.Doomed, st.FreeRows, doomed, free)
		}
		if err := l.Check(0); err != nil {
			t.Fatal(err)
		}
	}
	erase := func(t *testing.T, l *Log, members, done uint32) {
		t.Helper()
		var e Erasure
		if !l.TakeDoomed(&e) || e.Members != members || e.Rows != 1 || e.Index[0] != viewRows {
			t.Fatalf("%+v is to be erased, not the first row at %#b", e, members)
		}
		if err := l.Check(0); err != nil {
			t.Fatal(err)
		}
		l.Erased(&e, done, 0)
	}
	t.Run("a row that all members have", func(t *testing.T) {
		l := newLog(t, all)
		write(t, l, 1)
		write(t, l, 1)
		expect(t, l, 0, 5)
		l.SetUp(0, 3, false) // what dies while one is down is no other case
		write(t, l, 2)
		write(t, l, 1)
		expect(t, l, 0, 4)
	})
	t.Run("a partial one", func(t *testing.T) {
		l := newLog(t, 0b0111)
		write(t, l, 1)
		up(l, 3)
		l.Restored(0, 3, MissingRow{Index: viewRows, Tag: l.tag[viewRows]}) // its headers still name three
		write(t, l, 1)
		expect(t, l, 1, 4)
		if h := l.Health(); h.DegradedGroups != 1 || h.RedundancyLeft != 2 {
			t.Fatalf("%+v", h)
		}
		erase(t, l, all, all)
		expect(t, l, 0, 5)
		views(l)
		if h := l.Health(); h.DegradedGroups != 0 {
			t.Fatalf("%+v", h)
		}
	})
	t.Run("those that were given up", func(t *testing.T) {
		l := newLog(t, 0b0111)
		var p Placement
		l.Reserve(1, true, &p)
		l.Abandon(&p)
		expect(t, l, 1, 5)
		if l.Sure() {
			t.Fatal("what was given up can come back")
		}
		up(l, 3)
		l.Reserve(1, true, &p)
		if p.Settled != p.Seq-2 {
			// The view has taken a number between them.
			if p.Settled >= p.Seq-1 {
				t.Fatalf("batch %d says that all up to %d is settled", p.Seq, p.Settled)
			}
		}
		l.Abandon(&p)
		expect(t, l, 2, 4)
		var e Erasure
		if !l.TakeDoomed(&e) || e.Rows != 2 {
			t.Fatalf("%+v", e)
		}
		l.Erased(&e, all, 0)
		expect(t, l, 0, 6)
		if !l.Sure() {
			t.Fatal("nothing can come back any more")
		}
	})
	t.Run("one that was given up waits for a view without who is out", func(t *testing.T) {
		l := newLog(t, all)
		var p Placement
		l.Reserve(1, true, &p)
		l.Abandon(&p)
		l.SetUp(0, 0, false)
		var e Erasure
		if l.TakeDoomed(&e) {
			t.Fatalf("%+v, although member 0 may keep it, and a recovery would believe that", e)
		}
		views(l)
		erase(t, l, 0b1110, 0b1110)
		expect(t, l, 0, 6)
		l.SetUp(0, 0, true)
		if views(l); l.InView(0, 0) {
			t.Fatal("member 0 is in the view before what it may keep is erased")
		}
		erase(t, l, all, all)
		if views(l); !l.InView(0, 0) {
			t.Fatal("member 0 keeps nothing, and is not in the view")
		}
		expect(t, l, 0, 6)
	})
	t.Run("a damaged one", func(t *testing.T) {
		l := newLog(t, all)
		write(t, l, 1)
		l.SetMissed(0, viewRows, 2)
		write(t, l, 1)
		expect(t, l, 1, 4)
	})
	t.Run("a member fails meanwhile, and is back before the end", func(t *testing.T) {
		l := newLog(t, 0b0111)
		write(t, l, 1)
		write(t, l, 1)
		erase(t, l, 0b0111, 0b0110)
		expect(t, l, 1, 4)
	})
	t.Run("a member is down, and comes back", func(t *testing.T) {
		l := newLog(t, 0b0111)
		write(t, l, 1)
		l.SetUp(0, 0, false)
		up(l, 3)
		write(t, l, 1)
		erase(t, l, 0b1110, 0b1110)
		expect(t, l, 0, 5)
		l.SetUp(0, 0, true)
		expect(t, l, 1, 4)
		erase(t, l, all, all)
		expect(t, l, 0, 5)
	})
	t.Run("a member is down, and lost", func(t *testing.T) {
		l := newLog(t, 0b0111)
		write(t, l, 1)
		l.SetUp(0, 0, false)
		up(l, 3)
		write(t, l, 1)
		erase(t, l, 0b1110, 0b1110)
		l.SetLost(0, 0)
		l.Replace(0, 0)
		up(l, 0)
		expect(t, l, 0, 5)
	})
	t.Run("one that was never answered", func(t *testing.T) {
		l, err := NewLog(LogConfig{Geometry: recoveryGeometry, Groups: 1, Rows: 8, Pages: 12})
		if err != nil {
			t.Fatal(err)
		}
		for c := range Col(4) {
			l.SetUp(0, c, true)
		}
		l.AcceptView(0, all)
		r := NewRecovery(l)
		h := rowHeaders(2, 7, 0b11, all)
		for c := 1; c < len(h); c++ {
			h[c] = made(recoveryGeometry, Col(c), Site{Index: 2})
		}
		if err := r.Row(0, 2, h); err != nil {
			t.Fatal(err)
		}
		if void := r.Finish(); void != 1 {
			t.Fatalf("%d rows were dropped", void)
		}
		expect(t, l, 1, 5)
		if views(l); l.InView(0, 0) {
			t.Fatal("a view was made before that row was erased")
		}
		erase(t, l, all, all)
		begin(l)
		expect(t, l, 0, 6)
	})
}
