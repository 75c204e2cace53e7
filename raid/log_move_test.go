package raid

import "testing"

// What the cleaner moves counts only where nothing newer was written meanwhile, pages
// as well as records.
func TestMovesGiveWayToWhatIsNewer(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	note := func(move bool) (NoteID, Placement) {
		t.Helper()
		id, ok := l.NewNote(move)
		var p Placement
		if !ok || !l.Reserve(1, move, &p) {
			t.Fatal("no room for a note")
		}
		all := make([]Item, p.N)
		for i := range all {
			all[i] = Item{Kind: ItemCopy}
		}
		all[0] = Item{Kind: ItemNotes, Note: id}
		l.Commit(&p, all, p.Members)
		return id, p
	}
	put(t, l, 0, 2)
	old, _ := note(false)
	was := l.notes[old].slot
	l.CommitFill(old, 10, 2, 5)
	l.SealNote(old)

	from := []Slot{l.Lookup(0).Slot, l.Lookup(1).Slot}
	var moves Placement
	if !l.Reserve(2, true, &moves) {
		t.Fatal("no rows")
	}
	put(t, l, 0, 1)
	put(t, l, 10, 1)
	now := []Entry{l.Lookup(0), l.Lookup(10)}
	l.Commit(&moves, []Item{{Kind: ItemMove, Page: 0, From: from[0]}, {Kind: ItemMove, Page: 1, From: from[1]}}, moves.Members)
	id, _ := note(true)
	l.MoveFill(was, id, 10, 2, 5)
	l.SealNote(id)
	if l.Lookup(0) != now[0] || l.Lookup(10) != now[1] {
		t.Errorf("page 0 is %+v, not %+v; page 10 %+v, not %+v", l.Lookup(0), now[0], l.Lookup(10), now[1])
	}
	col, row := moves.At(1)
	if at := l.Place(l.Lookup(1).Slot); at.Index != row || at.Col != col {
		t.Errorf("page 1 lies at %+v, not where it was moved to", at)
	}
	if e := l.Lookup(11); e.Kind != Filled || e.Fill != 5 {
		t.Errorf("page 11 is %+v", e)
	}
	if err := l.Check(0); err != nil {
		t.Error(err)
	}
}

// A note dies while its records are moved, and another one with the same records gets its
// id. The moved records are older than what the page was in between: they must not count.
func TestMovesKnowNotesByTheirSlot(t *testing.T) {
	l := begun(t, Geometry{K: 1, M: 1}, 3)
	fill := func(v byte) NoteID {
		t.Helper()
		id, ok := l.NewNote(false)
		var p Placement
		if !ok || !l.Reserve(1, false, &p) {
			t.Fatal("no room for a note")
		}
		l.Commit(&p, []Item{{Kind: ItemNotes, Note: id}}, p.Members)
		l.CommitFill(id, 10, 1, v)
		l.SealNote(id)
		return id
	}
	first := fill(0)
	from := l.notes[first].slot
	moved, ok := l.NewNote(true)
	var p Placement
	if !ok || !l.Reserve(1, true, &p) {
		t.Fatal("no room for a move")
	}
	fill(2)
	last := fill(0)
	if last != first {
		t.Fatalf("the note is %d, not %d again", last, first)
	}
	l.Commit(&p, []Item{{Kind: ItemNotes, Note: moved}}, p.Members)
	l.MoveFill(from, moved, 10, 1, 0)
	l.SealNote(moved)
	if l.notes[last].live != 1 || l.fwd[10] != filledEntry(last, 0) {
		t.Error("a record counts that is older than what the page was meanwhile")
	}
	if err := l.Check(0); err != nil {
		t.Error(err)
	}
}

// Of a row that cannot be decoded any more those pages are moved that their own
// members still have.
func TestLastCopiesAreMoved(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	p := put(t, l, 0, 2)
	i := p.Index[0]
	for _, c := range []Col{0, 2} {
		l.SetMissed(0, i, c)
	}
	if l.CanDecode(l.Survivors(0, i), l.FilledCols(0, i)) {
		t.Fatal("the row can be decoded")
	}
	kept := l.Lookup(1).Slot
	if got := l.HealVictims(nil); len(got) != 1 || got[0] != kept {
		t.Errorf("slots %d are moved, not %d", got, kept)
	}
}

// The numbers of a lease lie above all that the leases before it can have used.
func TestLeasesCountApart(t *testing.T) {
	for e := range Epoch(4) {
		l := begun(t, Geometry{K: 2, M: 1}, 7)
		l.StartSeq(FirstSeq(e))
		if n := l.NextSeq(); n <= FirstSeq(e) || n >= FirstSeq(e+1) || l.Exhausted() {
			t.Errorf("lease %d begins with batch %#x, the next one with %#x", e, n, FirstSeq(e+1))
		}
		l.StartSeq(FirstSeq(e+1) - 1)
		if !l.Exhausted() {
			t.Errorf("lease %d goes on beyond %#x", e, FirstSeq(e+1))
		}
	}
}

// Page-outs leave rows to the moves, without which no row would become free.
func TestMovesFindRows(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var p Placement
	n := PageNo(0)
	for ; l.Reserve(2, false, &p); n += 2 {
		l.Commit(&p, items(&p, n), p.Members)
	}
	if n == 0 || !l.Reserve(2, true, &p) {
		t.Errorf("after %d pages there is no row to move any to", n)
	}
}

// Nor does a note take the last row, although it may have some of those.
func TestNotesLeaveRowsToMoves(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var p Placement
	for n := PageNo(0); l.Reserve(2, false, &p); n += 2 {
		l.Commit(&p, items(&p, n), p.Members)
	}
	if !l.ReserveNote(&p) {
		t.Error("there is no row for a note")
	}
	for l.ReserveNote(&p) {
	}
	if !l.Reserve(2, true, &p) {
		t.Error("there is no row to move any to")
	}
}
