package raid

import "testing"

var recoveryGeometry = Geometry{K: 2, M: 2}

// rowHeaders are the headers of a row that was sent to members, with a page in
// each filled column: page 10 in column 0, page 11 in column 1.
func rowHeaders(seq Seq, filled uint16, members uint32) [][]byte {
	headers := make([][]byte, recoveryGeometry.Members())
	table := make([]RowEntry, recoveryGeometry.K)
	for c := range headers {
		headers[c] = make([]byte, HeaderBytes(recoveryGeometry, Col(c)))
	}
	for c := range table {
		if filled&(1<<c) == 0 {
			continue
		}
		table[c] = RowEntry{Page: PageNo(10 + c), Kind: KindPage}
		if members&(1<<c) != 0 {
			headers[c] = encode(Header{Kind: KindPage, Filled: filled, Members: members, Page: PageNo(10 + c), Seq: seq}, nil)
		}
	}
	for c := recoveryGeometry.K; c < len(headers); c++ {
		if members&(1<<c) != 0 {
			headers[c] = encode(Header{Kind: KindParity, Filled: filled, Members: members, Seq: seq}, table)
		}
	}
	return headers
}

func empty(c Col) []byte { return make([]byte, HeaderBytes(recoveryGeometry, c)) }

// What a recovery makes of one row, older versions of whose pages are in
// another that all members have.
func TestRecoveryOfOneRow(t *testing.T) {
	damage := func(b []byte) []byte {
		b[10] ^= 1
		return b
	}
	const (
		old  = Slot(0)     // row 0
		here = Slot(3 * 2) // row 3
	)
	for _, test := range []struct {
		name     string
		filled   uint16
		members  uint32
		change   func(h [][]byte)
		p10, p11 Slot
		holders  uint32
		torn     int
		short    int
		unnamed  int
	}{
		{name: "whole", filled: 0b11, members: 0b1111, p10: here, p11: here + 1, holders: 0b1111},
		{name: "half filled: column 1 was not sent", filled: 0b01, members: 0b1111, p10: here, p11: old + 1, holders: 0b1111},
		{name: "a member did not get it", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { h[3] = empty(3) }, p10: old, p11: old + 1, torn: 1},
		{name: "a member did not get it, another cannot be read", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { h[0], h[3] = nil, empty(3) }, p10: old, p11: old + 1, torn: 1},
		{name: "a member cannot be read", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { h[1] = nil }, p10: here, p11: here + 1, holders: 0b1111},
		{name: "all data members cannot be read", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { h[0], h[1] = nil, nil }, p10: here, p11: here + 1, holders: 0b1111},
		{name: "a member was down when it was written", filled: 0b11, members: 0b1101,
			p10: here, p11: here + 1, holders: 0b1101},
		{name: "a header is damaged", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { damage(h[0]) }, p10: here, p11: here + 1, holders: 0b1110},
		{name: "a data member is left, of a row that may have been answered", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { h[1], h[2], h[3] = nil, nil, nil }, p10: here, p11: old + 1, holders: 0b1111, short: 1, unnamed: 1},
		{name: "a parity member is left", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) { h[0], h[1], h[2] = nil, nil, nil }, p10: here, p11: here + 1, holders: 0b1111, short: 1},
		{name: "degraded, and short of another member", filled: 0b11, members: 0b0111,
			change: func(h [][]byte) { h[0], h[2] = nil, nil }, p10: old, p11: here + 1, holders: 0b0111, short: 1, unnamed: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := NewLog(LogConfig{Geometry: recoveryGeometry, Groups: 1, Rows: 8, Pages: 12})
			if err != nil {
				t.Fatal(err)
			}
			h := rowHeaders(7, test.filled, test.members)
			if test.change != nil {
				test.change(h)
			}
			for c := range Col(recoveryGeometry.Members()) {
				l.SetUp(0, c, h[c] != nil)
			}
			r := NewRecovery(l)
			if err := r.Row(0, 3, h); err != nil {
				t.Fatal(err)
			}
			if err := r.Row(0, 0, rowHeaders(5, 0b11, 0b1111)); err != nil {
				t.Fatal(err)
			}
			short, unnamed := r.Incomplete()
			if torn := r.Finish(); torn != test.torn || short != test.short || unnamed != test.unnamed {
				t.Errorf("torn %d short %d unnamed %d, want %d %d %d", torn, short, unnamed, test.torn, test.short, test.unnamed)
			}
			for p, want := range map[PageNo]Slot{10: test.p10, 11: test.p11} {
				if e := l.Lookup(p); e.Kind != Stored || e.Slot != want {
					t.Errorf("page %d: %+v, want slot %d", p, e, want)
				}
			}
			if test.torn == 0 {
				if got := l.Holders(0, 3); got != test.holders {
					t.Errorf("holders %#b, want %#b", got, test.holders)
				}
				if got := l.FilledCols(0, 3); got != test.filled {
					t.Errorf("filled %#b, want %#b", got, test.filled)
				}
				if tag := l.Place(here).Tag; tag != TagOf(7) {
					t.Errorf("tag %d, want %d", tag, TagOf(7))
				}
			}
			if err := l.Check(0); err != nil {
				t.Error(err)
			}
			if s := l.NextSeq(); s != 8 {
				t.Errorf("the next batch has number %d", s)
			}
		})
	}
}

func TestRecoveryRefusals(t *testing.T) {
	l, err := NewLog(LogConfig{Geometry: recoveryGeometry, Groups: 1, Rows: 8, Pages: 12})
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecovery(l)
	if err := r.Row(0, 0, make([][]byte, 3)); err == nil {
		t.Error("3 headers for 4 members")
	}
	if err := r.Note(0, make([]byte, PageSize)); err == nil {
		t.Error("a page of zeros was taken for notes")
	}
	page := make([]byte, PageSize)
	NewNotes(page).Append(NoteRecord{Start: 11, Count: 2, Seq: 1})
	if err := r.Note(0, page); err == nil {
		t.Error("a record past the end of the volume was taken")
	}
	r.Finish()
	if err := l.Check(0); err != nil {
		t.Error(err)
	}
}

// A recovery may find more note pages than the table was made for.
func TestRecoveryGrowsNotes(t *testing.T) {
	const pages, rows = 3000, 2000
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 1}, Groups: 1, Rows: rows, Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUp(0, 0, true)
	r := NewRecovery(l)
	for i := range Index(rows) {
		h := encode(Header{Kind: KindNotes, Filled: 1, Members: 1, Seq: Seq(i + 1)}, nil)
		if err := r.Row(0, i, [][]byte{h}); err != nil {
			t.Fatal(err)
		}
	}
	slots := r.Notes()
	if len(slots) != rows {
		t.Fatalf("%d notes", len(slots))
	}
	note := func(s Slot) []byte { // note s has page s, and page 2999, which the newest wins
		page := make([]byte, PageSize)
		n := NewNotes(page)
		n.Append(NoteRecord{Start: PageNo(s), Count: 1, Fill: byte(s), Seq: Seq(s + 1)})
		n.Append(NoteRecord{Start: pages - 1, Count: 1, Fill: byte(s + 1), Seq: Seq(s + 1)})
		return page
	}
	for _, s := range slots {
		if err := r.Note(s, note(s)); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range slots {
		if err := r.Bind(s, note(s)); err != nil {
			t.Fatal(err)
		}
	}
	r.Finish()
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
	if n := l.Stats().Notes; n != rows {
		t.Errorf("%d notes in use", n)
	}
	for p := range PageNo(rows) {
		if e := l.Lookup(p); e.Kind != Filled || e.Fill != byte(p) {
			t.Fatalf("page %d: %+v", p, e)
		}
	}
	newest := rows // of the last slot, rows-1
	if e := l.Lookup(pages - 1); e.Kind != Filled || e.Fill != byte(newest) {
		t.Errorf("last page: %+v", e)
	}
}

// A full note table is no error: NewNote says so, and gives entries again when
// notes die.
func TestNoteTableFull(t *testing.T) {
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 1}, Groups: 1, Rows: 2000, Pages: 1500})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUp(0, 0, true)
	put := func(page PageNo) bool {
		id, ok := l.NewNote(false)
		if !ok {
			return false
		}
		var p Placement
		if !l.Reserve(1, false, &p) {
			t.Fatal("no rows")
		}
		l.Commit(&p, []Item{{Kind: ItemNotes, Note: id}}, p.Members)
		l.CommitFill(id, page, 1, 7)
		l.SealNote(id)
		return true
	}
	n := PageNo(0)
	for put(n) {
		n++
	}
	if n != 1024-noteReserve {
		t.Errorf("%d notes fit", n)
	}
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
	// Store one of them: its note dies, and there is room again, once.
	var p Placement
	if !l.Reserve(1, false, &p) {
		t.Fatal("no rows")
	}
	l.Commit(&p, []Item{{Page: 5}}, p.Members)
	if !put(n) || put(n+1) {
		t.Error("one dead note does not make room for one")
	}
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
}
