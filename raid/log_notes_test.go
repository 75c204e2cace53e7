package raid

import "testing"

// Single pages are filled in random order, each in a note of its own, for long:
// there is always an entry in the table of notes after some cleaning.
func TestNotesAreMerged(t *testing.T) {
	const pages = 100_000
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 2, M: 1}, Groups: 2, Rows: pages / 4 * 5 / 4, Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	for g := range GroupID(2) {
		for c := range Col(3) {
			l.SetUp(g, c, true)
		}
	}
	begin(l)
	rnd := newRand(1)
	held := make([][]PageNo, len(l.notes)) // what the note page of each note names
	put := func(move bool, named []PageNo, from []Slot) bool {
		id, ok := l.NewNote(move)
		if !ok {
			return false
		}
		if len(named) > MaxNotes {
			t.Fatalf("%d records in a note", len(named))
		}
		var p Placement
		if !l.Reserve(1, move, &p) {
			t.Fatalf("no rows: %+v", l.Stats())
		}
		l.Commit(&p, []Item{{Kind: ItemNotes, Note: id}}, p.Members)
		for i, page := range named {
			if move {
				l.MoveFill(from[i], id, page, 1, byte(page))
			} else {
				l.CommitFill(id, page, 1, byte(page))
			}
		}
		l.SealNote(id)
		held[id] = named
		l.Advance()
		l.Advance()
		return true
	}
	clean := func() {
		var named []PageNo
		var from []Slot
		for _, s := range l.Victims(nil) {
			what, live := l.Content(s)
			if !live || what.Kind != KindNotes {
				t.Fatalf("victim %d: %+v", s, what)
			}
			for _, page := range held[what.Note] {
				if _, n := l.NoteRun(what.Note, byte(page), page, 1); n > 0 {
					named, from = append(named, page), append(from, s)
				}
			}
		}
		if len(named) == 0 {
			t.Fatalf("nothing to merge: %+v", l.Stats())
		}
		put(true, named, from)
	}
	most := 0
	for range 3 * pages {
		page := PageNo(rnd.Uint64N(pages))
		for !put(false, []PageNo{page}, nil) {
			clean()
		}
		if l.CleanNeed() >= CleanSoon {
			clean()
		}
		most = max(most, l.Stats().Notes)
	}
	if st := l.Stats(); st.Filled < pages*9/10 || most > l.noteMax-noteReserve+1 {
		t.Errorf("at most %d notes of %d, %+v", most, l.noteMax, st)
	}
	if err := l.Check(0); err != nil {
		t.Error(err)
	}
}
