package raid

import "testing"

// A record of the view that only some have got may be found by the next client: whom
// it leaves out is written to no more, and another record above it is due, whatever
// the view is to be by then.
func TestRecordThatOnlySomeHave(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 2}, 15)
	var p Placement
	if !l.Reserve(2, false, &p) {
		t.Fatal("no rows")
	}
	l.SetUp(0, 3, false)
	l.Abandon(&p)
	var v View
	if !l.TakeView(&v) || v.Members != 7 {
		t.Fatalf("the view is to be %b", v.Members)
	}
	l.Installed(&v, v.To&^1, 0)
	l.SetUp(0, 3, true)
	if !l.Reserve(2, false, &p) || p.Members&8 != 0 || p.Named&8 != 0 {
		t.Errorf("rows are written to %b and name %b, and record %d, which some have, is without member 3", p.Members, p.Named, v.Seq)
	}
	l.Abandon(&p)
	for e := (Erasure{}); l.TakeDoomed(&e); {
		l.Erased(&e, e.Members, e.Second)
	}
	var next View
	if !l.TakeView(&next) || next.Seq <= v.Seq || next.Members != 15 {
		t.Errorf("after record %d, which some have, comes %d for %b", v.Seq, next.Seq, next.Members)
	}
	l.Installed(&next, next.To, 0)
	install(t, l)
	if !l.Reserve(2, false, &p) || p.Named != 15 {
		t.Errorf("rows name %b", p.Named)
	}
}

// A row is answered when enough of those that it names still belong to the view.
func TestNamedHaveToBelongToTheView(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 2}, 15)
	l.GuardThin()
	var p Placement
	if !l.Reserve(2, false, &p) || p.Named != 15 || !l.MayCommit(&p) {
		t.Fatalf("%+v", p)
	}
	l.Replace(0, 2)
	if !l.MayCommit(&p) {
		t.Error("three that belong to the view know of it, and it is not answered")
	}
	l.Replace(0, 3)
	if l.MayCommit(&p) {
		t.Error("two that belong to the view know of it, and it is answered")
	}
}

// Of a mirror without a guard that has one member in its view, which is out, the
// other one does not become the view, since it misses rows.
func TestWhoMissesRowsIsNotAllOfTheView(t *testing.T) {
	l := begun(t, Geometry{K: 1, M: 1}, 3)
	settle := func() {
		install(t, l)
		for e := (Erasure{}); l.TakeDoomed(&e); {
			l.Erased(&e, e.Members, e.Second)
			install(t, l)
		}
	}
	l.SetUp(0, 1, false)
	put(t, l, 0, 1)
	var p Placement
	if !l.Reserve(1, false, &p) {
		t.Fatal("no rows")
	}
	l.Abandon(&p)
	settle()
	if l.groups[0].view.members != 1 || l.Missing(0, 1) != 1 {
		t.Fatalf("the view is %b, and member 1 misses %d rows", l.groups[0].view.members, l.Missing(0, 1))
	}
	if !l.Reserve(1, false, &p) {
		t.Fatal("no rows")
	}
	l.SetUp(0, 1, true)
	l.SetUp(0, 0, false)
	l.Abandon(&p)
	settle()
	if m := l.groups[0].view.members; m&1 == 0 {
		t.Errorf("the view is %b", m)
	}
}

// What a member that is being rebuilt does not have says nothing of a row.
func TestRebuildingMemberSaysNothing(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	for _, filling := range []uint32{0, 4} {
		l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUp(0, 0, true)
		l.SetUp(0, 2, true)
		l.AcceptView(0, 7)
		l.groups[0].view.filling = filling
		rec := NewRecovery(l)
		hs := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 7, Seq: 9, Settled: 5}, 1)
		hs[1] = nil
		if err := rec.Row(0, viewRows, hs); err != nil {
			t.Fatal(err)
		}
		rec.Notes()
		state := rec.Incomplete()
		if void := rec.Finish(); (void == 1) != (filling == 0) || (state.Doubtful == 1) != (filling != 0) {
			t.Errorf("with %b being rebuilt %d rows were never answered, and %d are in doubt", filling, void, state.Doubtful)
		}
	}
}

// A note that cannot be read does not matter when its row is dead.
func TestUnreadableNotes(t *testing.T) {
	g := Geometry{K: 1, M: 1}
	for _, dead := range []bool{false, true} {
		l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
		if err != nil {
			t.Fatal(err)
		}
		for c := range Col(2) {
			l.SetUp(0, c, true)
		}
		l.AcceptView(0, 3)
		rec := NewRecovery(l)
		h := Header{Kind: KindNotes, Filled: 1, Members: 3, Seq: 4, Settled: 9, Site: l.Site(0, viewRows)}
		hs := [][]byte{encode(h, nil), encode(h, nil)}
		if dead {
			PutErased(hs[1], l.Site(0, viewRows), 0)
		}
		if err := rec.Row(0, viewRows, hs); err != nil {
			t.Fatal(err)
		}
		if n := len(rec.Notes()); n != 1 {
			t.Fatalf("%d notes", n)
		}
		rec.Unreadable(0, 0b11)
		if n := rec.Incomplete().Unnamed; (n == 1) == dead {
			t.Errorf("its row is dead: %v, and %d pages are unnamed", dead, n)
		}
	}
}

// While old headers wait to be erased the group counts as degraded.
func TestHeadersToEraseDegrade(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	l.SetUp(0, 2, false)
	p := put(t, l, 0, 2)
	l.SetUp(0, 2, true)
	l.Restored(0, 2, MissingRow{Index: p.Index[0], Tag: TagOf(p.Seq)})
	install(t, l)
	if h := l.Health(); h.DegradedGroups != 0 {
		t.Fatalf("%+v", h)
	}
	put(t, l, 0, 2) // what the headers of the dead row name is fewer than all
	l.Advance()
	l.Advance()
	if h := l.Health(); l.Doomed() != 1 || h.DegradedGroups != 1 {
		t.Errorf("%d rows wait to be erased, and %d groups are degraded", l.Doomed(), h.DegradedGroups)
	}
	for e := (Erasure{}); l.TakeDoomed(&e); {
		l.Erased(&e, e.Members, e.Second)
	}
	if h := l.Health(); h.DegradedGroups != 0 {
		t.Errorf("%+v", h)
	}
}

// A row that cannot be read any more, and was erased at a member that had it, is dead:
// it takes nothing of what is read.
func TestErasedRowIsDead(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for _, erased := range []bool{false, true} {
		l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUp(0, 0, true)
		l.SetUp(0, 2, true)
		l.AcceptView(0, 15)
		rec := NewRecovery(l)
		hs := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 7, Seq: 7, Settled: 5}, 1)
		other := headersOf(g, l.Site(0, viewRows+1), Header{Filled: 1, Members: 15, Seq: 10, Settled: 9}, 15)
		for _, c := range []int{1, 3} {
			hs[c], other[c] = nil, nil
		}
		if erased {
			PutErased(hs[2], l.Site(0, viewRows), 7)
		}
		for i, h := range [][][]byte{hs, other} {
			if err := rec.Row(0, Index(viewRows+i), h); err != nil {
				t.Fatal(err)
			}
		}
		rec.Notes()
		if n := rec.Incomplete().Undecodable; (n == 0) != erased {
			t.Errorf("erased %v: %d rows are in use and cannot be read", erased, n)
		}
	}
}

// What a member out of the view has helps to read a row, and does not tell that it
// was answered; what it lacks tells that it was not.
func TestOutsidersOfTheView(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for name, c := range map[string]struct {
		have, read          uint32
		void, doubt, unsure int
	}{
		"all have it":                          {have: 15, read: 15, unsure: 1},
		"the outsider helps to read it":        {have: 0b1001, read: 0b1001, unsure: 1},
		"the outsider lacks it, one has it":    {have: 0b0001, read: 0b1001, void: 1},
		"one has it, and no others were read":  {have: 0b0001, read: 0b0001, doubt: 1},
		"the outsider lacks it, two others do": {have: 0b0110, read: 0b1110, unsure: 1},
	} {
		l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
		if err != nil {
			t.Fatal(err)
		}
		for m := range Col(4) {
			l.SetUp(0, m, c.read&(1<<m) != 0)
		}
		l.AcceptView(0, 7)
		rec := NewRecovery(l)
		hs := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 15, Seq: 9, Settled: 5}, c.have)
		for m := range hs {
			if c.read&(1<<m) == 0 {
				hs[m] = nil
			}
		}
		if err := rec.Row(0, viewRows, hs); err != nil {
			t.Fatal(err)
		}
		rec.Notes()
		state := rec.Incomplete()
		if void := rec.Finish(); void != c.void || state.Doubtful != c.doubt || int(l.unsure) != c.unsure {
			t.Errorf("%s: %d rows were never answered, %d are in doubt, %d unsure", name, void, state.Doubtful, l.unsure)
		}
	}
}
