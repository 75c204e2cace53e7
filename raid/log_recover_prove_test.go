package raid

import "testing"

// What is read of a slot proves the row only when it is that row, in its place, and whole.
func TestProves(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, r := recovering(t, g, 7, 7)
	at, page := l.Site(0, viewRows), make([]byte, PageSize)
	h := Header{Filled: 3, Members: 7, Seq: 9, Settled: 5, CRC: Checksum(page)}
	if err := r.Row(0, viewRows, headersOf(g, at, h, 0b011)); err != nil {
		t.Fatal(err)
	}
	rows := r.Unproved(0)
	if len(rows) != 1 || rows[0].Seq != 9 || rows[0].Have != 0b011 {
		t.Fatalf("unproved: %+v", rows)
	}
	u := &rows[0]
	older, damaged := h, make([]byte, PageSize)
	older.Seq, damaged[7] = 8, 1
	for name, c := range map[string]struct {
		header, page []byte
		want         bool
	}{
		"the row":        {headersOf(g, at, h, 0b011)[0], page, true},
		"damaged":        {headersOf(g, at, h, 0b011)[0], damaged, false},
		"an older row":   {headersOf(g, at, older, 0b011)[0], page, false},
		"another place":  {headersOf(g, l.Site(0, viewRows+1), h, 0b011)[0], page, false},
		"an erased slot": {made(g, 0, at), page, false},
		"zeros":          {make([]byte, HeaderSize), page, false},
	} {
		if got := r.Proves(u, c.header, c.page); got != c.want {
			t.Errorf("%s: proves: %v", name, got)
		}
	}
}

// A member that holds no record of any view may have forgotten the row, too: that it lacks one
// that cannot be decoded does not show that this was never answered.
func TestWhoForgotTheViewContradictsNothing(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	for blank, want := range map[uint32]Incomplete{0: {}, 0b010: {Undecodable: 1, Doubtful: 1, Unnamed: 1}} {
		l, r := recovering(t, g, 3, 7)
		l.groups[0].view.blank = blank
		h := Header{Filled: 3, Members: 7, Seq: 9, Settled: 5}
		if err := r.Row(0, viewRows, only(headersOf(g, l.Site(0, viewRows), h, 0b001), 0b011)); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		if r.Incomplete() != want {
			t.Errorf("blank %b: %+v", blank, r.Incomplete())
		}
	}
}

// Of a row that is doomed, and that some only say to be dead, a member that comes back says so
// too. What is dead by what is settled needs nobody's word.
func TestDoomedAndTornIsSaidByAll(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	l, r := recovering(t, g, 0b0111, 0b1111)
	for i, dead := range []Seq{9, 4} {
		at := l.Site(0, viewRows+Index(i))
		old := only(headersOf(g, at, Header{Filled: 3, Members: 0b0111, Seq: 3, Settled: 2}, 0b0111), 0b0111)
		PutErased(old[0], at, dead)
		if err := r.Row(0, viewRows+Index(i), old); err != nil {
			t.Fatal(err)
		}
	}
	settled := headersOf(g, l.Site(0, viewRows+2), Header{Filled: 3, Members: 0b1111, Seq: 7, Settled: 6}, 0b1111)
	if err := r.Row(0, viewRows+2, only(settled, 0b0111)); err != nil {
		t.Fatal(err)
	}
	r.Finish()
	for i, want := range []bool{true, false} {
		index := viewRows + Index(i)
		back := Header{Kind: KindErased, Site: l.Site(0, index)}
		if dead, erase := l.Leftover(0, index, 3, back, true, false); erase != want || erase && dead < 9 {
			t.Errorf("row %d: erased: %v, up to %d", index, erase, dead)
		}
		if void := hasBit(l.groups[0].void, uint32(index)); void != want {
			t.Errorf("row %d is erased before the log begins: %v", index, void)
		}
	}
}
