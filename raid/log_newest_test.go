package raid

import "testing"

// Of a page that is stored in one row and named by a record of a note in another,
// and of two records, the newer one counts, in whatever order they are met. A record
// is as old as it says: its note may have been moved since.
func TestNewestVersionCounts(t *testing.T) {
	const page, row, noteSeq = PageNo(7), Seq(10), Seq(20)
	for name, c := range map[string]struct {
		records []Seq // each of a note of its own, read in this order
		want    Entry
	}{
		"an older record":           {[]Seq{9}, Entry{Kind: Stored, Slot: viewRows}},
		"a newer record":            {[]Seq{11}, Entry{Kind: Filled, Fill: 11}},
		"a newer record, then old":  {[]Seq{12, 11}, Entry{Kind: Filled, Fill: 12}},
		"old records":               {[]Seq{8, 9}, Entry{Kind: Stored, Slot: viewRows}},
		"an old record, then newer": {[]Seq{9, 13}, Entry{Kind: Filled, Fill: 13}},
	} {
		l, err := NewLog(LogConfig{Geometry: Geometry{K: 1}, Pages: 64, Groups: 1, Rows: 64})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUp(0, 0, true)
		l.AcceptView(0, 1)
		rec := NewRecovery(l)
		h := Header{Kind: KindPage, Page: page, Filled: 1, Members: 1, Seq: row, Settled: 30, Site: l.Site(0, viewRows)}
		if err := rec.Row(0, viewRows, [][]byte{encode(h, nil)}); err != nil {
			t.Fatal(err)
		}
		notes := make(map[Slot][]byte)
		for i, seq := range c.records {
			at := Index(viewRows + 1 + i)
			h := Header{Kind: KindNotes, Filled: 1, Members: 1, Seq: noteSeq - Seq(i), Settled: 30, Site: l.Site(0, at)}
			if err := rec.Row(0, at, [][]byte{encode(h, nil)}); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, PageSize)
			NewNotes(b).Append(NoteRecord{Start: page, Count: 1, Fill: byte(seq), Seq: seq})
			notes[Slot(at)] = b
		}
		slots := rec.Notes()
		for _, read := range []func(Slot, []byte) error{rec.Note, rec.Bind} {
			for _, s := range slots {
				if err := read(s, notes[s]); err != nil {
					t.Fatal(err)
				}
			}
		}
		rec.Finish()
		if got := l.Lookup(page); got != c.want {
			t.Errorf("%s: the page is %+v, not %+v", name, got, c.want)
		}
		if err := l.Check(0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Batches are numbered above all that a recovery has seen, in headers, settled or
// not, and in records.
func TestNumbersGoOnAboveWhatWasFound(t *testing.T) {
	for name, h := range map[string]Header{
		"settled":     {Seq: 40, Settled: 50},
		"not settled": {Seq: 60, Settled: 50},
	} {
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
		h.Filled, h.Members = 1, 7
		if err := rec.Row(0, viewRows, headersOf(g, l.Site(0, viewRows), h, 7)); err != nil {
			t.Fatal(err)
		}
		rec.Notes()
		rec.Finish()
		if next := l.NextSeq(); next <= h.Seq {
			t.Errorf("%s: a row of batch %d was found, and the next is %d", name, h.Seq, next)
		}
	}
}
