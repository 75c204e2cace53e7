package raid

import "testing"

// unsureRow recovers a row that not all members have which it was sent to. It fills all
// columns.
func unsureRow(t *testing.T, g Geometry, view, sent, have uint32) *Log {
	t.Helper()
	l, r := recovering(t, g, l32(g), view)
	l.GuardThin()
	filled := uint16(1)<<g.K - 1
	if err := r.Row(0, viewRows, headersOf(g, l.Site(0, viewRows), Header{Filled: filled, Members: sent, Seq: 9, Settled: 5}, have)); err != nil {
		t.Fatal(err)
	}
	r.Notes()
	r.Finish()
	if l.unsure != 1 {
		t.Fatalf("%d rows are unsure", l.unsure)
	}
	return l
}

// fillRow gives member c the row, if it may have it.
func fillRow(l *Log, c Col) bool {
	rows, _ := l.UnsureRows(0, c, 0, make([]MissingRow, 0, 64))
	for _, r := range rows {
		l.Restored(0, c, r)
	}
	l.Complete()
	return len(rows) > 0
}

// Unsure rows are filled at members that they were sent to, and are sure when all of
// these have them and more than M members are known to.
func TestUnsureRowsAreCompleted(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	l := unsureRow(t, g, 15, 15, 0b0011)
	for c, unsure := range map[Col]uint64{2: 1} {
		if !fillRow(l, c) || l.unsure != unsure {
			t.Errorf("member %d was filled, and %d rows are unsure", c, l.unsure)
		}
	}
	if fillRow(l, 0) {
		t.Error("a member is filled that has the row")
	}
	if !fillRow(l, 3) || l.unsure != 0 {
		t.Errorf("all have the row, and %d are unsure", l.unsure)
	}
	if err := l.Check(0); err != nil {
		t.Error(err)
	}
}

// Who was not sent the row is not filled: its header does not name it.
func TestUnsureRowsGoToWhoTheyWereSentTo(t *testing.T) {
	l := unsureRow(t, Geometry{K: 2, M: 2}, 15, 0b0111, 0b0011)
	if fillRow(l, 3) {
		t.Error("a member is filled that the row was not sent to")
	}
	if !fillRow(l, 2) || l.unsure != 0 {
		t.Errorf("all have the row that it was sent to, and %d are unsure", l.unsure)
	}
}

// Rows that were found with the help of a member that is not believed are moved.
func TestLentRowsAreNotFilled(t *testing.T) {
	l := unsureRow(t, Geometry{K: 2, M: 2}, 0b0111, 15, 0b1001)
	for c := range Col(4) {
		if fillRow(l, c) {
			t.Errorf("member %d is filled", c)
		}
	}
}

// Nor is a row that a member says to be dead which is not believed: it might be believed by
// the next recovery. The row is moved.
func TestDeniedRowsAreNotFilled(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for name, c := range map[string]struct {
		erased Seq
		fills  bool
	}{
		"it is erased":           {erased: 9},
		"an older one is erased": {erased: 8, fills: true},
	} {
		l, r := recovering(t, g, 15, 0b0111)
		h := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 0b0111, Seq: 9}, 0b0011)
		PutErased(h[3], l.Site(0, viewRows), c.erased)
		if err := r.Row(0, viewRows, h); err != nil {
			t.Fatal(err)
		}
		r.Finish()
		if l.unsure != 1 {
			t.Fatalf("%s: %d rows are unsure", name, l.unsure)
		}
		if fills := fillRow(l, 2); fills != c.fills {
			t.Errorf("%s: the row is filled: %v", name, fills)
		}
	}
}

// A row that all have which it was sent to is unsure while these are too few, or do not
// belong to the view.
func TestCompletedByTooFew(t *testing.T) {
	for name, c := range map[string]struct{ view, sent uint32 }{
		"too few":         {view: 3, sent: 1},
		"out of the view": {view: 1, sent: 3},
	} {
		l := unsureRow(t, Geometry{K: 1, M: 1}, c.view, c.sent, 1)
		fillRow(l, 1)
		if l.Complete(); l.unsure != 1 {
			t.Errorf("%s: %d rows are unsure", name, l.unsure)
		}
	}
}

// The first view of a client says that all is settled. So there is none while a move is on
// its way, also when the row was filled meanwhile that it is of.
func TestNoViewWhileMovesAreOnTheirWay(t *testing.T) {
	l := unsureRow(t, Geometry{K: 2, M: 1}, 7, 7, 0b011)
	from := l.UnsureVictims(nil)
	var p Placement
	if len(from) == 0 || !l.Reserve(len(from), true, &p) {
		t.Fatal("nothing is moved")
	}
	if !fillRow(l, 2) || l.unsure != 0 {
		t.Fatalf("%d rows are unsure", l.unsure)
	}
	var v View
	if l.TakeView(&v) {
		t.Errorf("a view says that all is settled up to %d, and batch %d is on its way", v.Settled, p.Seq)
	}
	moved := items(&p, 0)
	for i := range from {
		what, _ := l.Content(from[i])
		moved[i] = Item{Kind: ItemMove, Page: what.Page, From: from[i]}
	}
	l.Commit(&p, moved, p.Members)
	if !l.TakeView(&v) || v.Settled < p.Seq {
		t.Errorf("%+v, not a view that settles batch %d", v, p.Seq)
	}
}

// Where there is no room rows are spared that more than M members of the view know of: who
// was sent nothing of a row does not. What cannot be decoded by those who are up, and gave
// their pages, is not spared.
func TestSparedRowsAreKnown(t *testing.T) {
	for name, c := range map[string]struct {
		g          Geometry
		view, have uint32
		filled     uint16
		away       uint32
		unheard    uint32
		unsure     uint64
	}{
		"all but one":             {g: Geometry{K: 2, M: 2}, view: 15, have: 0b0111, filled: 3},
		"too few":                 {g: Geometry{K: 2, M: 2}, view: 15, have: 0b0011, filled: 3, unsure: 1},
		"one is out of the view":  {g: Geometry{K: 2, M: 2}, view: 0b0111, have: 0b1110, filled: 3, unsure: 1},
		"one was sent nothing":    {g: Geometry{K: 2, M: 1}, view: 7, have: 0b100, filled: 1, unsure: 1},
		"one was sent nothing, 2": {g: Geometry{K: 3, M: 1}, view: 15, have: 0b1001, filled: 3},
		"it cannot be decoded":    {g: Geometry{K: 4, M: 2}, view: 63, have: 0b001111, filled: 15, away: 0b000001, unsure: 1},
		"it can be decoded":       {g: Geometry{K: 4, M: 2}, view: 63, have: 0b011111, filled: 15, away: 0b000001},
		"a page may be damaged":   {g: Geometry{K: 4, M: 2}, view: 63, have: 0b001111, filled: 15, unheard: 0b000010, unsure: 1},
		"enough pages were read":  {g: Geometry{K: 4, M: 2}, view: 63, have: 0b011111, filled: 15, unheard: 0b000010},
	} {
		l, r := recovering(t, c.g, l32(c.g), c.view)
		l.GuardThin()
		if err := r.Row(0, viewRows, headersOf(c.g, l.Site(0, viewRows), Header{Filled: c.filled, Members: l32(c.g), Seq: 9, Settled: 5}, c.have)); err != nil {
			t.Fatal(err)
		}
		if rows := r.Unproved(0); c.unheard != 0 {
			r.Unheard(&rows[0], c.unheard)
		}
		r.Notes()
		r.Finish()
		if l.unsure != 1 {
			t.Fatalf("%s: %d rows are unsure", name, l.unsure)
		}
		for m := range Col(c.g.Members()) {
			l.SetUp(0, m, c.away&(1<<m) == 0)
		}
		if l.SpareUnsure(); l.unsure != c.unsure {
			t.Errorf("%s: %d rows are unsure", name, l.unsure)
		}
	}
}
