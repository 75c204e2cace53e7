package raid

import "testing"

// put writes new versions of n pages from first on, in one batch.
func put(t *testing.T, l *Log, first PageNo, n int) Placement {
	t.Helper()
	var p Placement
	if !l.Reserve(n, false, &p) || p.Pages != n {
		t.Fatalf("%d pages of %d are placed", p.Pages, n)
	}
	l.Commit(&p, items(&p, first), p.Members)
	return p
}

// A read that began before a row died may last until the next but one Advance, and
// so long the row is not given to anybody.
func TestDeadRowsOutliveReads(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	put(t, l, 0, 2)
	l.Advance()
	put(t, l, 0, 2)
	for i, want := range []uint64{0, 0, 1} {
		if i > 0 {
			l.Advance()
		}
		if got := l.Stats().FreeRows + uint64(viewRows) + l.Stats().UsedRows; got != uint64(l.nrows)-1+want {
			t.Errorf("after %d epochs %d rows are free or in use of %d: the dead one is among them, or is lost", i, got, l.nrows)
		}
	}
}

// reused writes the pages of row i, which are those from first on, once more, and
// then others until the row is written anew: leave says who does not get that.
func reused(t *testing.T, l *Log, i Index, first PageNo, leave func(*Placement)) {
	t.Helper()
	put(t, l, first, l.g.K)
	l.Advance()
	l.Advance()
	for n := range PageNo(l.nrows) {
		var p Placement
		if !l.Reserve(l.g.K, false, &p) {
			t.Fatal("no rows")
		}
		if p.Index[0] == i {
			leave(&p)
		}
		l.Commit(&p, items(&p, first+PageNo(l.g.K)*(n+1)), p.Members)
		if p.Index[0] == i {
			return
		}
	}
	t.Fatalf("row %d is never written again", i)
}

// What a member is given of a row says nothing of the row that was written in its
// place meanwhile.
func TestFillOfAnOlderRow(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	t.Run("a member", func(t *testing.T) {
		l := begun(t, g, 7)
		l.SetUp(0, 2, false)
		p := put(t, l, 0, 2)
		rows, _ := l.MissingRows(0, 2, 0, make([]MissingRow, 0, 4))
		if len(rows) != 1 || rows[0].Index != p.Index[0] {
			t.Fatalf("it misses %+v", rows)
		}
		l.SetUp(0, 2, true)
		install(t, l)
		put(t, l, 0, 2) // the row dies, with a header that names fewer than all
		l.Advance()
		l.Advance()
		for e := (Erasure{}); l.TakeDoomed(&e); {
			l.Erased(&e, e.Members, 0)
		}
		l.SetUp(0, 2, false)
		reused(t, l, p.Index[0], 0, func(*Placement) {})
		missing := l.Missing(0, 2)
		l.Restored(0, 2, rows[0])
		if l.Missing(0, 2) != missing || l.Holders(0, p.Index[0])&4 != 0 {
			t.Errorf("it was given row %+v, and counts as holding the one that replaced it", rows[0])
		}
	})
	t.Run("a pending member", func(t *testing.T) {
		l := begun(t, g, 7)
		p := put(t, l, 0, 2)
		l.AddPending(0, 1)
		l.SetPendingUp(0, 1, true)
		rows, _ := l.PendingRows(0, 1, 0, make([]MissingRow, 0, 4))
		if len(rows) != 1 || rows[0].Index != p.Index[0] {
			t.Fatalf("it misses %+v", rows)
		}
		reused(t, l, p.Index[0], 0, func(p *Placement) { p.Second = 0 })
		if n := l.PendingMissing(0, 1); n != 1 {
			t.Fatalf("it misses %d rows, not the one that it was not given", n)
		}
		l.PendingRestored(0, 1, rows[0])
		if n := l.PendingMissing(0, 1); n != 1 {
			t.Errorf("it was given row %+v, and misses %d, not the one that replaced it", rows[0], n)
		}
	})
}

// Of a row that died nothing is kept at a member that returns, be it in limbo, or
// free; what is in use stays.
func TestHeadersOfDeadRowsGo(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	old := put(t, l, 0, 2)
	now := put(t, l, 0, 2)
	keeps := func(p *Placement) bool {
		h := Header{Kind: KindPage, Filled: 3, Members: 7, Seq: p.Seq, Site: l.Site(0, p.Index[0])}
		return l.keeps(0, p.Index[0], 0, h, true)
	}
	for epoch := range 3 {
		if keeps(&old) || !keeps(&now) {
			t.Errorf("after %d epochs the header of the dead row is kept: %v, that of the row in use: %v", epoch, keeps(&old), keeps(&now))
		}
		l.Advance()
	}
}

// Before a log begins no row is free that something replaces which may not last.
func TestNothingIsFreeBeforeBegin(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(3) {
		l.SetUp(0, c, true)
	}
	l.AcceptView(0, 7)
	rec := NewRecovery(l)
	for i, have := range []uint32{7, 1} { // of the newer version one of two is left
		h := Header{Filled: 1, Members: 7, Seq: Seq(4 + 2*i), Settled: 4}
		if err := rec.Row(0, Index(viewRows+i), headersOf(g, l.Site(0, Index(viewRows+i)), h, have)); err != nil {
			t.Fatal(err)
		}
	}
	rec.Notes()
	before := l.Stats()
	l.Advance() // notes are read
	l.Advance()
	rec.Finish()
	l.Advance()
	l.Advance()
	if now := l.Stats(); before.Limbo != 1 || now != before {
		t.Errorf("%+v, then %+v", before, now)
	}
	dead := Index(viewRows)
	for p := (Placement{}); l.Room(); {
		l.Reserve(1, true, &p)
	}
	if l.Advance(); l.Limbo() {
		t.Error("it is let go, and may be needed")
	}
	l.unsureDied(&l.groups[0], dead+1) // it lasts
	if !l.Limbo() {
		t.Error("nothing waits for a read epoch")
	}
	for range 2 {
		l.Advance()
	}
	if !hasBit(l.groups[0].free, uint32(dead)) && !hasBit(l.groups[0].doomed, uint32(dead)) {
		t.Error("there is no room, and a row is held that nobody needs")
	}
}

// What was held until a log has begun is free then.
func TestHeldRowsAreLetGo(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	put := put(t, l, 0, 2)
	l.opened, l.holding = false, true
	for c := range 2 {
		l.kill(Slot(l.row(0, put.Index[0]))*2 + Slot(c))
	}
	l.BeginAnyway()
	l.Advance()
	l.Advance()
	if !hasBit(l.groups[0].free, uint32(put.Index[0])) {
		t.Error("a row is not free that died before")
	}
	later := putTwice(t, l)
	l.Advance()
	l.Advance()
	if !hasBit(l.groups[0].free, uint32(later)) {
		t.Error("a row is not free that died since")
	}
}

// putTwice writes pages twice, and gives the row that is dead then.
func putTwice(t *testing.T, l *Log) Index {
	t.Helper()
	p := put(t, l, 10, 2)
	put(t, l, 10, 2)
	return p.Index[0]
}

// Rows that stay held after a look at them are no reason to look again.
func TestHeldRowsAreLookedAtOnce(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	l.held, l.sweepDue = []uint32{l.row(0, viewRows)}, true
	l.rev[l.held[0]*2] = backDead
	if l.sweep(); l.Limbo() || len(l.held) != 1 {
		t.Errorf("%d rows are held, and wait: %v", len(l.held), l.Limbo())
	}
}

// Before a log begins a row that died because its pages were moved is free when there is no
// room for more moves, unless one of its pages is in a row that may not last, or in a note.
func TestMovedRowsAreFreeBeforeBegin(t *testing.T) {
	for name, c := range map[string]struct {
		unsure, away, trimmed, open, note bool
		held                              bool
	}{
		"all its pages last":              {},
		"a later one may not last":        {unsure: true, held: true},
		"a later one cannot be decoded":   {away: true, held: true},
		"one was trimmed":                 {trimmed: true},
		"the trim may not last":           {trimmed: true, unsure: true, held: true},
		"the trim is not stored":          {open: true, held: true},
		"it held a note beside the pages": {note: true, held: true},
	} {
		l := begun(t, Geometry{K: 2, M: 1}, 7)
		moved := put(t, l, 0, 2)
		var later Placement
		switch {
		case c.trimmed, c.open:
			id, _ := l.NewNote(false)
			if c.trimmed {
				if !l.ReserveNote(&later) {
					t.Fatalf("%s: there is no room", name)
				}
				note := items(&later, 0)
				note[0] = Item{Kind: ItemNotes, Note: id}
				for i := 1; i < len(note); i++ {
					note[i] = Item{Kind: ItemCopy}
				}
				l.Commit(&later, note, later.Members)
			}
			l.CommitFill(id, 1, 1, 7)
			if c.trimmed {
				l.SealNote(id)
			}
		case c.note:
			l.rev[l.row(0, moved.Index[0])*2+1] = backDead
			l.kill(l.fwd[1].slot())
		default:
			later = put(t, l, 1, 2)
		}
		if c.away {
			l.miss(&l.groups[0], uint32(later.Index[0]), 0b011)
		}
		if c.unsure {
			setBit(l.groups[0].unsure, uint32(later.Index[0]))
			l.groups[0].nunsure, l.unsure = 1, 1
		}
		l.opened, l.holding, l.sweepDue = false, true, true
		var p Placement
		if !l.Reserve(1, true, &p) {
			t.Fatalf("%s: there is no room", name)
		}
		move := items(&p, 0)
		move[0] = Item{Kind: ItemMove, Page: 0, From: l.fwd[0].slot()}
		for i := 1; i < len(move); i++ {
			move[i] = Item{Kind: ItemCopy}
		}
		l.Commit(&p, move, p.Members)
		if l.live[l.row(0, moved.Index[0])] != 0 {
			t.Fatalf("%s: the row is in use", name)
		}
		free := func() bool {
			for range 3 {
				l.Advance()
			}
			return hasBit(l.groups[0].free, uint32(moved.Index[0]))
		}
		if free() {
			t.Errorf("%s: the row is free although there is room", name)
		}
		for l.Room() {
			l.Reserve(1, true, &p)
		}
		if got := free(); got == c.held {
			t.Errorf("%s: the row is free before the log begins: %v", name, got)
		}
		l.letGo()
		l.opened = true
		if !free() {
			t.Errorf("%s: the row is not free when the log has begun", name)
		}
	}
}
