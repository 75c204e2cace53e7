package raid

import "testing"

var recoveryGeometry = Geometry{K: 2, M: 2}

// rowHeaders are the headers of row i that was sent to members, with a page in
// each filled column: page 10 in column 0, page 11 in column 1. They say that
// all before 5 is settled.
func rowHeaders(i Index, seq Seq, filled uint16, members uint32) [][]byte {
	headers := make([][]byte, recoveryGeometry.Members())
	table := make([]RowEntry, recoveryGeometry.K)
	h := site(Header{Filled: filled, Members: members, Seq: seq, Settled: min(seq-1, 5)}, i)
	for c := range headers {
		headers[c] = make([]byte, HeaderBytes(recoveryGeometry, Col(c)))
	}
	for c := range table {
		if filled&(1<<c) == 0 {
			continue
		}
		table[c] = RowEntry{Page: PageNo(10 + c), Kind: KindPage}
		if members&(1<<c) != 0 {
			h.Kind, h.Page = KindPage, PageNo(10+c)
			headers[c] = encode(h, nil)
		}
	}
	h.Kind, h.Page = KindParity, 0
	for c := recoveryGeometry.K; c < len(headers); c++ {
		if members&(1<<c) != 0 {
			headers[c] = encode(h, table)
		}
	}
	return headers
}

// A member that lacked rows when the view was made is no witness that a settled row is
// dead: it may be one of those.
func TestOnlyWholeMembersTellThatARowIsDead(t *testing.T) {
	for _, whole := range []uint32{0b1111, 0b1001, 0b0110} {
		l, err := NewLog(LogConfig{Geometry: recoveryGeometry, Groups: 1, Rows: 8, Pages: 12})
		if err != nil {
			t.Fatal(err)
		}
		for c := range Col(recoveryGeometry.Members()) {
			l.SetUp(0, c, true)
		}
		l.AcceptView(0, l.all())
		l.groups[0].view.settled, l.groups[0].view.whole = 7, whole
		h := rowHeaders(3, 7, 0b11, 0b1111)
		h[0], h[1], h[3] = empty(0), nil, empty(3)
		r := NewRecovery(l)
		if err := r.Row(0, 3, h); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		want := 1
		if whole&0b1001 != 0 {
			want = 0
		}
		if got := r.Incomplete().Undecodable; got != want {
			t.Errorf("%04b had every row: %d rows cannot be decoded, and are not dead", whole, got)
		}
	}
}

// empty is row 3 at member c as its chunk is made.
func empty(c Col) []byte { return made(recoveryGeometry, c, Site{Index: 3}) }

// made is a slot of column c as chunks are made.
func made(g Geometry, c Col, at Site) []byte {
	b := make([]byte, HeaderBytes(g, c))
	PutErased(b, at, 0)
	return b
}

// recoverTwo recovers a log of two rows with the same pages: row 4 of batch 5,
// which all members have, and row 3 with headers h.
func recoverTwo(t *testing.T, h [][]byte, settled Seq, whole uint32) (*Log, *Recovery) {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: recoveryGeometry, Groups: 1, Rows: 8, Pages: 12})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(recoveryGeometry.Members()) {
		l.SetUp(0, c, h[c] != nil)
	}
	l.GuardThin()
	l.AcceptView(0, l.all())
	l.groups[0].view.settled, l.groups[0].view.whole = settled, whole
	r := NewRecovery(l)
	for i, headers := range map[Index][][]byte{3: h, 4: rowHeaders(4, 5, 0b11, 0b1111)} {
		if err := r.Row(0, i, headers); err != nil {
			t.Fatal(err)
		}
	}
	return l, r
}

// What a recovery makes of one row, older versions of whose pages are in
// another that all members have: when the row may not be settled, and when it is.
func TestRecoveryOfOneRow(t *testing.T) {
	damage := func(b []byte) []byte {
		b[10] ^= 1
		return b
	}
	const (
		old  = Slot(4 * 2) // row 4
		here = Slot(3 * 2) // row 3
	)
	type outcome struct {
		p10, p11 Slot
		holders  uint32
		void     int
		dead     uint64 // rows that are erased, but for void ones
		unsure   uint64
		state    Incomplete
	}
	for _, test := range []struct {
		name    string
		filled  uint16
		members uint32
		change  func(h [][]byte)
		fresh   outcome // perhaps not settled
		settled outcome
	}{
		{name: "whole", filled: 0b11, members: 0b1111,
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1111},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1111}},
		{name: "half filled: column 1 was not sent", filled: 0b01, members: 0b1111,
			fresh:   outcome{p10: here, p11: old + 1, holders: 0b1111},
			settled: outcome{p10: here, p11: old + 1, holders: 0b1111}},
		{name: "a member does not have it", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[3] = empty(3) },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b0111, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b0111}},
		{name: "two members do not have it", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[0], h[3] = empty(0), empty(3) },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b0110, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b0110}},
		{name: "three members do not have it", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[0], h[1], h[3] = empty(0), empty(1), empty(3) },
			fresh:   outcome{p10: old, p11: old + 1, void: 1},
			settled: outcome{p10: old, p11: old + 1, dead: 1}},
		{name: "a member does not have it, two cannot be read", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[0], h[1], h[3] = nil, nil, empty(3) },
			fresh:   outcome{p10: old, p11: old + 1, void: 1},
			settled: outcome{p10: old, p11: old + 1, dead: 1}},
		{name: "one has an older row in its place", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[1] = rowHeaders(3, 4, 0b11, 0b1111)[1] },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1101, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1101}},
		{name: "a slot of another place", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[1] = rowHeaders(6, 9, 0b11, 0b1111)[1] },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1101, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1101}},
		{name: "a member cannot be read", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[1] = nil },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1111, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1111}},
		{name: "two members cannot be read", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[0], h[1] = nil, nil },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1111, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1111}},
		{name: "a member was down when it was written", filled: 0b11, members: 0b1101,
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1101},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1101}},
		{name: "a header is damaged", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { damage(h[0]) },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1110, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1110}},
		{name: "a member tells that it is dead", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { PutErased(h[3], Site{Index: 3}, 7) },
			fresh:   outcome{p10: old, p11: old + 1, dead: 1},
			settled: outcome{p10: old, p11: old + 1, dead: 1}},
		{name: "a member tells that what was before is dead", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { PutErased(h[3], Site{Index: 3}, 6) },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b0111, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b0111}},
		{name: "a member tells that another row is dead", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { PutErased(h[3], Site{Index: 5}, 9) },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b0111, unsure: 1},
			settled: outcome{p10: here, p11: here + 1, holders: 0b0111}},
		{name: "three members have lost their memory", filled: 0b11, members: 0b1111,
			change: func(h [][]byte) {
				clear(h[0])
				clear(h[1])
				clear(h[3])
			},
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b0100, state: Incomplete{Undecodable: 1, Doubtful: 1}},
			settled: outcome{p10: here, p11: here + 1, holders: 0b0100, state: Incomplete{Undecodable: 1}}},
		{name: "a data member is left", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[1], h[2], h[3] = nil, nil, nil },
			fresh:   outcome{p10: here, p11: old + 1, holders: 0b1111, state: Incomplete{Undecodable: 1, Unnamed: 1, Doubtful: 1}},
			settled: outcome{p10: here, p11: old + 1, holders: 0b1111, state: Incomplete{Undecodable: 1, Unnamed: 1}}},
		{name: "a parity member is left", filled: 0b11, members: 0b1111,
			change:  func(h [][]byte) { h[0], h[1], h[2] = nil, nil, nil },
			fresh:   outcome{p10: here, p11: here + 1, holders: 0b1111, state: Incomplete{Undecodable: 1, Doubtful: 1}},
			settled: outcome{p10: here, p11: here + 1, holders: 0b1111, state: Incomplete{Undecodable: 1}}},
		{name: "degraded, and short of another member", filled: 0b11, members: 0b0111,
			change:  func(h [][]byte) { h[0], h[2] = nil, nil },
			fresh:   outcome{p10: old, p11: here + 1, holders: 0b0111, state: Incomplete{Undecodable: 1, Unnamed: 1, Doubtful: 1}},
			settled: outcome{p10: old, p11: here + 1, holders: 0b0111, state: Incomplete{Undecodable: 1, Unnamed: 1}}},
	} {
		for _, c := range []struct {
			name    string
			settled Seq
			want    outcome
		}{{"fresh", 6, test.fresh}, {"settled", 7, test.settled}} {
			t.Run(c.name+"/"+test.name, func(t *testing.T) {
				h := rowHeaders(3, 7, test.filled, test.members)
				if test.change != nil {
					test.change(h)
				}
				l, r := recoverTwo(t, h, c.settled, test.members)
				r.Notes()
				got := outcome{holders: l.Holders(0, 3), state: r.Incomplete()}
				got.void = r.Finish()
				if got.dead = l.Doomed() - uint64(got.void); l.Doomed() > 0 {
					got.holders = 0
				}
				got.unsure = l.unsure
				got.p10, got.p11 = l.Lookup(10).Slot, l.Lookup(11).Slot
				if got != c.want {
					t.Errorf("got  %+v\nwant %+v", got, c.want)
				}
				if l.Doomed() == 0 && (l.FilledCols(0, 3) != test.filled || l.Place(here).Tag != TagOf(7)) {
					t.Errorf("filled %#b, tag %d", l.FilledCols(0, 3), l.Place(here).Tag)
				}
				if err := l.Check(0); err != nil {
					t.Error(err)
				}
			})
		}
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
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 1}, Groups: 1, Rows: rows + viewRows, Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUp(0, 0, true)
	l.AcceptView(0, 1)
	r := NewRecovery(l)
	for i := range Index(rows) {
		h := encode(site(Header{Kind: KindNotes, Filled: 1, Members: 1, Seq: Seq(i + 1), Settled: rows}, i+viewRows), nil)
		if err := r.Row(0, i+viewRows, [][]byte{h}); err != nil {
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
		s -= viewRows
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
	begin(l)
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
