package raid

import "testing"

// small is a log of so many usable rows, which is open and whole.
func small(t *testing.T, g Geometry, usable uint32) *Log {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: g, Pages: 256, Groups: 1, Rows: usable + viewRows})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(g.Members()) {
		l.SetUp(0, c, true)
	}
	return begin(l)
}

// fillUp takes all rows that page-outs may have, and tells how many are left.
func fillUp(l *Log) uint64 {
	var p Placement
	for n := PageNo(0); l.Reserve(2, false, &p); n += 2 {
		l.Commit(&p, items(&p, n), p.Members)
	}
	return l.free
}

// Small volumes keep rows for moves too: with one alone little can be gained.
func TestSmallVolumesKeepRowsForMoves(t *testing.T) {
	for usable, want := range map[uint32]uint64{7: 0, 8: 1, 15: 1, 16: 2, 32: 2, 48: 3} {
		if got := fillUp(small(t, Geometry{K: 2, M: 1}, usable)); got != want {
			t.Errorf("of %d rows %d are left to moves", usable, got)
		}
	}
}

// A note never has the last row, however few are kept.
func TestNoteLeavesTheLastRow(t *testing.T) {
	l := small(t, Geometry{K: 2, M: 1}, 8)
	if left := fillUp(l); left != 1 {
		t.Fatalf("%d rows are left", left)
	}
	var p Placement
	if l.ReserveNote(&p) {
		t.Error("a note takes the last row")
	}
	if !l.Reserve(2, true, &p) {
		t.Error("there is no row to move any to")
	}
}

// MoveRoom tells what Reserve gives to a move, and when that is the last of it.
func TestMoveRoom(t *testing.T) {
	for _, c := range []struct {
		free  int // rows
		n     int // pages
		pages int
		last  bool
	}{
		{3, 2, 2, false},
		{3, 4, 4, false},
		{3, 5, 5, true},
		{3, 9, 6, true},
		{1, 1, 1, true},
		{0, 1, 0, false},
	} {
		l := small(t, Geometry{K: 2, M: 1}, 8)
		var p Placement
		for n := PageNo(0); int(l.free) > c.free; n += 2 {
			if !l.Reserve(2, true, &p) {
				t.Fatal("no rows")
			}
			l.Commit(&p, items(&p, n), p.Members)
		}
		pages, last := l.MoveRoom(c.n)
		if pages != c.pages || last != c.last {
			t.Errorf("%d rows for %d pages: %d, the last ones %v", c.free, c.n, pages, last)
		}
		if ok := l.Reserve(c.n, true, &p); ok != (pages > 0) || ok && (p.Pages != pages || (l.free == 0) != last) {
			t.Errorf("%d rows for %d pages: %d are placed, and %d rows are left", c.free, c.n, p.Pages, l.free)
		}
	}
}

// Notes are not put together with the last row: that makes no other free.
func TestNotesAreNotCleanedWithTheLastRow(t *testing.T) {
	for _, free := range []uint64{2, 1} {
		l := small(t, Geometry{K: 1, M: 1}, 16)
		l.noteMax = noteReserve + 3
		for n := range PageNo(3) {
			id, ok := l.NewNote(false)
			var p Placement
			if !ok || !l.Reserve(1, false, &p) {
				t.Fatal("no room for a note")
			}
			l.Commit(&p, []Item{{Kind: ItemNotes, Note: id}}, p.Members)
			l.CommitFill(id, n, 1, 7)
			l.SealNote(id)
		}
		for n := PageNo(10); l.free > free; n++ {
			var p Placement
			if !l.Reserve(1, true, &p) {
				t.Fatal("no rows")
			}
			l.Commit(&p, []Item{{Page: n}}, p.Members)
		}
		if got := len(l.Victims(nil)); (got > 0) != (free > 1) {
			t.Errorf("%d rows are free, and %d slots of notes are moved", free, got)
		}
	}
}
