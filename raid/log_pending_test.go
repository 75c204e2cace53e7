package raid

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The steps of TestLogProperty that move living members.

// drawPending gives a pending member that want accepts.
func (s *sim) drawPending(want func(g GroupID, c Col, pd *simMember) bool) (GroupID, Col, *simMember) {
	type who struct {
		g GroupID
		c Col
	}
	var all []who
	for g := range s.pending {
		for c, pd := range s.pending[g] {
			if pd != nil && want(GroupID(g), Col(c), pd) {
				all = append(all, who{GroupID(g), Col(c)})
			}
		}
	}
	if len(all) == 0 {
		s.t.Skip("no such pending member")
	}
	w := rapid.SampledFrom(all).Draw(s.t, "pending")
	return w.g, w.c, s.pending[w.g][w.c]
}

func (s *sim) stepAddPending() {
	g, c, m := s.drawMember()
	if m.lost || s.pending[g][c] != nil {
		s.t.Skip("is lost, or has one")
	}
	s.pending[g][c] = &simMember{slots: make([]simSlot, s.cfg.Rows), up: true}
	s.log.AddPending(g, c)
	s.log.SetPendingUp(g, c, true)
}

func (s *sim) stepPendingDown() {
	g, c, pd := s.drawPending(func(_ GroupID, _ Col, pd *simMember) bool { return pd.up })
	if rapid.IntRange(0, 2).Draw(s.t, "really") > 0 {
		s.t.Skip("is spared")
	}
	s.pendingDown(g, c, pd)
}

func (s *sim) pendingDown(g GroupID, c Col, pd *simMember) {
	pd.up = false
	s.log.SetPendingUp(g, c, false)
	for _, op := range s.ops {
		op.lose(pd, c)
	}
	for _, e := range s.erasures {
		if e.second[c] == pd {
			e.cut |= 1 << c
		}
	}
}

// lose ends the session in which op was sent to a pending member. What was on
// its way may land until it returns.
func (op *simOp) lose(pd *simMember, c Col) {
	if op.todo2&(1<<c) != 0 && op.second[c] == pd {
		op.lag |= 1 << c
	}
}

func (s *sim) stepPendingUp() {
	g, c, pd := s.drawPending(func(_ GroupID, _ Col, pd *simMember) bool { return !pd.up && !pd.lost })
	for _, list := range [][]*simOp{s.ghosts, s.ops} {
		for _, op := range list {
			if op.p.Group == g {
				s.arrive(op, c, pd)
			}
		}
	}
	s.usePending(g, c, pd)
}

// usePending takes a pending member into use. What an earlier client gave it is
// erased first, as package client does.
func (s *sim) usePending(g GroupID, c Col, pd *simMember) {
	if pd.old {
		pd.slots, pd.old = make([]simSlot, s.cfg.Rows), false
	}
	pd.up = true
	s.log.SetPendingUp(g, c, true)
}

func (s *sim) stepPendingLost() {
	g, c, pd := s.drawPending(func(_ GroupID, _ Col, pd *simMember) bool { return !pd.lost })
	if rapid.IntRange(0, 4).Draw(s.t, "really") > 0 {
		s.t.Skip("is spared")
	}
	if pd.up {
		s.pendingDown(g, c, pd)
	}
	pd.lost = true
	pd.slots = make([]simSlot, s.cfg.Rows)
}

// stepFill gives a pending member some rows that it misses.
func (s *sim) stepFill() {
	g, c, pd := s.drawPending(func(g GroupID, c Col, pd *simMember) bool { return pd.up && s.log.PendingMissing(g, c) > 0 })
	most := rapid.SampledFrom([]int{5, 500}).Draw(s.t, "rows")
	rows, _ := s.log.PendingRows(g, c, 0, make([]MissingRow, 0, most))
	for _, r := range rows {
		have := s.holders(g, r.Index, true)
		if r.Have&(1<<c) == 0 && popcount(have&^(1<<c)|s.unfilled(g, r.Index)) < s.cfg.Geometry.K {
			s.t.Fatalf("row %d is to be made from %b", r.Index, r.Have)
		}
		op := s.bySeq[s.rowSeq[g][r.Index]]
		at := slices.Index(op.p.Index[:op.p.Rows], r.Index)
		pd.slots[r.Index] = op.out[c][at]
		s.log.PendingRestored(g, c, r)
	}
}

// stepVouch tells the metadata service that a pending member has everything.
func (s *sim) stepVouch() {
	g, c, _ := s.drawPending(func(g GroupID, c Col, pd *simMember) bool {
		return s.log.MayVouch(g, c) && !slices.ContainsFunc(s.ops, func(op *simOp) bool {
			return op.p.Group == g && (op.second[c] != pd || op.lag&(1<<c) != 0)
		})
	})
	s.log.Vouch(g, c)
}

// stepPromote makes a pending member the member: because it has everything, or
// because the member is lost.
func (s *sim) stepPromote() {
	g, c, pd := s.drawPending(func(g GroupID, c Col, pd *simMember) bool {
		return !pd.lost && (s.log.Vouched(g, c) || s.members[g][c].lost)
	})
	lost := s.members[g][c].lost && rapid.Bool().Draw(s.t, "as lost")
	if !lost && !s.log.Vouched(g, c) {
		s.t.Skip("misses rows")
	}
	for _, op := range s.ops {
		if op.p.Group != g {
			continue
		}
		if op.second[c] != pd {
			op.lag |= 1 << c
		}
		if lost && op.p.Members&(1<<c) != 0 {
			op.failed = true
		}
		op.promoted |= 1 << c
		op.todo &^= 1 << c
	}
	for _, e := range s.erasures {
		if e.Group == g && e.todo&(1<<c) != 0 {
			e.todo &^= 1 << c // that one is gone
			e.failed |= 1 << c
		}
	}
	for _, v := range s.views {
		if v.Group == g {
			v.todo &^= 1 << c
		}
	}
	pd.more, pd.filling = true, lost
	s.members[g][c], s.pending[g][c] = pd, nil
	s.log.Promote(g, c)
	s.log.SetNoted(g, c, lost, false)
	s.reads = slices.DeleteFunc(s.reads, func(r simRead) bool { return r.place.Group == g && r.place.Col == c })
}

func (s *sim) stepCancel() {
	g, c, _ := s.drawPending(func(_ GroupID, _ Col, pd *simMember) bool { return true })
	if !s.pending[g][c].lost && rapid.IntRange(0, 4).Draw(s.t, "really") > 0 {
		s.t.Skip("is spared")
	}
	for _, op := range s.ops {
		if op.p.Group == g {
			op.lag |= 1 << c
			op.todo2 &^= 1 << c
		}
	}
	s.pending[g][c] = nil
	s.log.DropPending(g, c)
}

// finishSecond ends what is written to pending members, and gives the members
// that have the batch. Only who was vouched for can make it fail.
func (s *sim) finishSecond(op *simOp) uint32 {
	for c := range Col(s.cfg.Geometry.Members()) {
		bit := uint32(1) << c
		if op.todo2&bit == 0 || op.lag&bit != 0 {
			continue
		}
		if op.second[c].lost || s.rnd.Uint32N(16) == 0 {
			op.lag |= bit // refused, say
		} else {
			op.landOn(op.second[c], c, op.p.Rows)
		}
		op.todo2 &^= bit
	}
	if op.todo2 != 0 {
		s.ghosts = append(s.ghosts, op)
	}
	second := op.p.Second &^ op.lag
	wrote := op.p.Members&^op.promoted | second&op.promoted
	op.p.Second = second &^ op.promoted
	if s.log.Unvouched(&op.p, op.p.Second) != 0 || wrote&op.p.Named != op.p.Named || popcount(wrote) < s.log.MinAck() {
		op.failed = true
	}
	return wrote
}

// checkPending: who is thought to have a row has it, and a recovery does not
// take what a vouched one lacks for what was never answered.
func (s *sim) checkPending() {
	for g := range GroupID(s.cfg.Groups) {
		for c, pd := range s.pending[g] {
			if pd == nil {
				continue
			}
			p := s.log.groups[g].mustPending(Col(c))
			for i := range Index(s.cfg.Rows) {
				if s.log.live[s.log.row(g, i)] == 0 || s.unfilled(g, i)&(1<<c) != 0 {
					continue
				}
				op := s.bySeq[s.rowSeq[g][i]]
				if hasBit(p.missed, uint32(i)) {
					if p.vouched && op.p.Named&(1<<c) != 0 {
						s.t.Fatalf("row %d of group %d names column %d, whose vouched member misses it", i, g, c)
					}
					continue
				}
				if pd.lost {
					continue
				}
				h, err := ParseHeader(pd.slots[i].header)
				if err != nil || h.Seq != s.rowSeq[g][i] {
					s.t.Fatalf("row %d of group %d: the pending member %d does not have it: %+v %v", i, g, c, h, err)
				}
			}
		}
	}
}

// A move from beginning to end, step by step.
func TestPending(t *testing.T) {
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 2, M: 1}, Pages: 400, Groups: 1, Rows: 300, MinAck: 2})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(3) {
		l.SetUp(0, c, true)
	}
	begin(l)
	write := func(from, n int, lag uint32) {
		t.Helper()
		for n > 0 {
			var p Placement
			if !l.Reserve(n, false, &p) {
				t.Fatal("no rows")
			}
			items := make([]Item, p.N)
			for i := range items {
				items[i] = Item{Page: PageNo(from + i)}
			}
			p.Second &^= lag
			l.Commit(&p, items, p.Members)
			from, n = from+p.N, n-p.N
		}
		if err := l.Check(0); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 100, 0)
	l.AddPending(0, 1)
	before := l.PendingMissing(0, 1)
	if before == 0 || l.MayVouch(0, 1) {
		t.Fatalf("an empty chunk misses %d rows", before)
	}
	if h := l.Health(); h.DegradedGroups != 0 || h.DegradedRows != 0 || h.RedundancyLeft != 1 {
		t.Fatalf("a move degrades the group: %+v", h)
	}
	l.SetPendingUp(0, 1, true)
	views(l)
	write(100, 20, 0)    // is written to it too
	write(120, 20, 1<<1) // fails there
	if n := l.PendingMissing(0, 1); n != before+10 {
		t.Fatalf("%d rows missing, %d before", n, before)
	}
	write(120, 20, 0) // what it missed is dead
	if n := l.PendingMissing(0, 1); n != before {
		t.Fatalf("%d rows missing, %d before", n, before)
	}
	for at := Index(0); at < Index(l.nrows); {
		var rows []MissingRow
		rows, at = l.PendingRows(0, 1, at, make([]MissingRow, 0, 7))
		for _, r := range rows {
			if r.Have != 7 {
				t.Fatalf("the member that leaves is not a source: %b", r.Have)
			}
			l.PendingRestored(0, 1, r)
		}
	}
	if !l.MayVouch(0, 1) {
		t.Fatal("it misses nothing")
	}
	l.Vouch(0, 1)
	l.SetPendingUp(0, 1, false)
	write(140, 2, 0) // in doubt: written to both, but not named
	if l.PendingMissing(0, 1) != 1 || l.Missing(0, 1) != 0 || l.MayVouch(0, 1) {
		t.Fatalf("pending misses %d rows, the member %d", l.PendingMissing(0, 1), l.Missing(0, 1))
	}
	var p Placement
	if !l.Reserve(2, false, &p) || p.Members != 7 || p.Named != 5 || p.Second != 0 {
		t.Fatalf("%+v", p)
	}
	before = int(l.Doomed())
	l.Abandon(&p)
	if n := int(l.Doomed()) - before; n != p.Rows {
		t.Fatalf("%d rows of a batch that was given up are erased, %d have headers that name fewer than all", n, p.Rows)
	}
	l.SetPendingUp(0, 1, true)
	views(l)
	if !l.Reserve(2, false, &p) || p.Named != 7 || p.Second != 2 || l.Unvouched(&p, 0) != 2 {
		t.Fatalf("%+v", p)
	}
	l.Abandon(&p)
	l.Promote(0, 1)
	if l.Missing(0, 1) != 1 || l.UpMembers(0) != 7 {
		t.Fatalf("misses %d rows, up %b", l.Missing(0, 1), l.UpMembers(0))
	}
	l.AddPending(0, 0)
	l.DropPending(0, 0)
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
}

// A pending member was away while rows were erased, and these are in use again
// with nothing in its column. That keeps nobody from vouching for it.
func TestVouchWithOldHeadersInUse(t *testing.T) {
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 2, M: 1}, Pages: 400, Groups: 1, Rows: 300, MinAck: 2})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(3) {
		l.SetUp(0, c, true)
	}
	begin(l)
	write := func(from, n int) {
		t.Helper()
		var p Placement
		if !l.Reserve(n, false, &p) || p.N != n {
			t.Fatalf("placed %d pages of %d", p.N, n)
		}
		items := make([]Item, n)
		for i := range items {
			items[i] = Item{Page: PageNo(from + i)}
		}
		l.Commit(&p, items, p.Members)
	}
	erase := func(second uint32) {
		t.Helper()
		l.Advance()
		l.Advance()
		for e := (Erasure{}); l.TakeDoomed(&e); {
			if e.Second != second {
				t.Fatalf("erased at the pending members %b, not %b", e.Second, second)
			}
			l.Erased(&e, e.Members, e.Second)
		}
		if err := l.Check(0); err != nil {
			t.Fatal(err)
		}
	}
	l.AddPending(0, 1)
	l.SetUp(0, 2, false)
	write(0, 40) // without the third member
	l.SetUp(0, 2, true)
	write(0, 40)
	erase(0)
	for i := range 250 { // of one page each, in almost all rows
		write(i, 1)
	}
	write(300, 4)
	l.SetPendingUp(0, 1, true)
	views(l)
	if l.MayVouch(0, 1) {
		t.Fatal("it misses rows")
	}
	erase(2)
	for at := Index(0); at < Index(l.nrows); {
		var rows []MissingRow
		rows, at = l.PendingRows(0, 1, at, make([]MissingRow, 0, 7))
		for _, r := range rows {
			l.PendingRestored(0, 1, r)
		}
	}
	if p := l.groups[0].mustPending(1); p.nstale == 0 || p.nmissed != 0 || !l.MayVouch(0, 1) {
		t.Fatalf("%d old headers, misses %d, may be vouched for: %v", p.nstale, p.nmissed, l.MayVouch(0, 1))
	}
	l.ForgetPendingStale(0, 1)
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
}
