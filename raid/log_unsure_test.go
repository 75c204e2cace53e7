package raid

import "testing"

// A row that some lack is filled at those it was sent to. It counts as answered when all
// of them have it, and enough of those belong to the view.
func TestUnsureRowsAreComplete(t *testing.T) {
	for name, c := range map[string]struct {
		sent, view uint32
		want       bool
	}{
		"all":                        {0b1111, 0b1111, true},
		"too few belong to the view": {0b1111, 0b0101, false},
		"it was not sent to one":     {0b0111, 0b1111, true},
	} {
		h := rowHeaders(3, 7, 0b11, c.sent)
		h[1], h[3] = empty(1), empty(3)
		l, r := recoverTwo(t, h, 5, 0b1111)
		r.Notes()
		r.Finish()
		if l.unsure != 1 {
			t.Fatalf("%s: %d rows are unsure", name, l.unsure)
		}
		l.groups[0].view.members = c.view
		given := 0
		for m := range Col(recoveryGeometry.Members()) {
			rows, next := l.UnsureRows(0, m, 0, make([]MissingRow, 0, 4))
			if next != Index(l.nrows) || len(rows) > 1 || len(rows) == 1 && rows[0].Index != 3 {
				t.Fatalf("%s: member %d is to be given %+v, up to %d", name, m, rows, next)
			}
			if len(rows) == 0 {
				continue
			}
			if l.Complete(); l.unsure != 1 {
				t.Fatalf("%s: a row counts as filled that member %d lacks", name, m)
			}
			l.Restored(0, m, rows[0])
			given++
		}
		if l.Complete(); given != popcount(c.sent&0b1010) || (l.unsure == 0) != c.want {
			t.Errorf("%s: %d members were filled, %d rows are unsure", name, given, l.unsure)
		}
	}
}
