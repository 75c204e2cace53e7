package raid

import "testing"

// TestReplaceIsFilled follows a member from its loss over its replacement to
// full redundancy: every row in use is listed once, and none after Restored.
func TestReplaceIsFilled(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, err := NewLog(LogConfig{Geometry: g, Pages: 400, Groups: 2, Rows: 128})
	if err != nil {
		t.Fatal(err)
	}
	for gr := range GroupID(2) {
		for c := range Col(3) {
			l.SetUp(gr, c, true)
		}
	}
	begin(l)
	write := func(from, n int) {
		for n > 0 {
			var p Placement
			if !l.Reserve(n, false, &p) {
				t.Fatal("no rows")
			}
			items := make([]Item, p.N)
			for i := range items {
				items[i] = Item{Kind: ItemPage, Page: PageNo(from + i)}
			}
			l.Commit(&p, items, p.Members)
			from, n = from+p.N, n-p.N
		}
	}
	write(0, 201) // an odd number: some row has an unfilled column
	l.SetLost(0, 1)
	if h := l.Health(); h.DegradedGroups != 1 || h.RedundancyLeft != 0 {
		t.Fatalf("after the loss: %+v", h)
	}
	write(201, 30)
	l.Replace(0, 1)
	if n := l.Missing(0, 1); n == 0 {
		t.Fatal("an empty chunk misses nothing")
	}
	l.SetUp(0, 1, true)
	views(l)
	write(231, 30) // has these from the start

	seen := map[Index]bool{}
	for at := Index(0); at < Index(l.nrows); {
		var rows []MissingRow
		rows, at = l.MissingRows(0, 1, at, make([]MissingRow, 0, 7))
		for _, r := range rows {
			if seen[r.Index] {
				t.Fatalf("row %d is listed twice", r.Index)
			}
			seen[r.Index] = true
			if r.Have&(1<<1) != 0 || popcount(r.Have) < 2 {
				t.Fatalf("row %d is to be made from %b", r.Index, r.Have)
			}
			l.Restored(0, 1, r)
		}
	}
	if len(seen) == 0 || l.Missing(0, 1) != 0 {
		t.Fatalf("%d rows filled, %d still missing", len(seen), l.Missing(0, 1))
	}
	views(l)
	if h := l.Health(); h.DegradedGroups != 0 || h.RedundancyLeft != 1 {
		t.Fatalf("after the rebuild: %+v", h)
	}
	if err := l.Check(0); err != nil {
		t.Fatal(err)
	}
	// A row that was rewritten while its old content was on its way is not
	// marked as held.
	l.Replace(0, 0)
	l.SetUp(0, 0, true)
	rows, _ := l.MissingRows(0, 0, 0, make([]MissingRow, 0, 1))
	stale := rows[0]
	stale.Tag++
	before := l.Missing(0, 0)
	l.Restored(0, 0, stale)
	if l.Missing(0, 0) != before {
		t.Fatal("an old content was taken for the row")
	}
}
