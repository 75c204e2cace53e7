package raid

import "testing"

// From which members a group is recovered: from K, of which so many are in the view
// that at most M of it are missing, and not all. Who is being rebuilt counts as
// missing.
func TestEnoughToRecover(t *testing.T) {
	for _, c := range []struct {
		g             Geometry
		view, filling uint32
		read          uint32
		want          bool
	}{
		{Geometry{K: 2, M: 1}, 0b111, 0, 0b111, true},
		{Geometry{K: 2, M: 1}, 0b111, 0, 0b011, true},
		{Geometry{K: 2, M: 1}, 0b111, 0, 0b100, false},
		{Geometry{K: 2, M: 1}, 0b011, 0, 0b101, true},  // one of those in it, and one that helps
		{Geometry{K: 2, M: 1}, 0b011, 0, 0b100, false}, // none of those in it
		{Geometry{K: 2, M: 1}, 0b011, 0, 0b001, false}, // one alone
		{Geometry{K: 3, M: 2}, 0b11111, 0, 0b00111, true},
		{Geometry{K: 3, M: 2}, 0b11111, 0, 0b00011, false},
		{Geometry{K: 4, M: 1}, 0b11111, 0, 0b01111, true},
		{Geometry{K: 4, M: 1}, 0b11110, 0, 0b00111, false}, // two of those in it are away
		{Geometry{K: 1, M: 2}, 0b011, 0, 0b001, true},
		{Geometry{K: 1, M: 2}, 0b011, 0, 0b100, false},
		{Geometry{K: 2, M: 2}, 0b0111, 0, 0b0110, true},
		{Geometry{K: 2, M: 2}, 0b0111, 0, 0b1100, true},
		{Geometry{K: 2, M: 2}, 0b0011, 0, 0b1100, false},   // none of those in it
		{Geometry{K: 2, M: 1}, 0b111, 0b010, 0b011, false}, // one of the two is being rebuilt
		{Geometry{K: 2, M: 1}, 0b111, 0b010, 0b111, true},
		{Geometry{K: 1, M: 1}, 0b11, 0b10, 0b10, false},
	} {
		l, err := NewLog(LogConfig{Geometry: c.g, Groups: 1, Rows: 8, Pages: 8})
		if err != nil {
			t.Fatal(err)
		}
		var rows [viewRows][][]byte
		for i := range rows {
			rows[i] = make([][]byte, c.g.Members())
			for m := range rows[i] {
				if c.view&(1<<m) == 0 {
					continue
				}
				rows[i][m] = make([]byte, HeaderBytes(c.g, Col(m)))
				if i == 0 {
					h := Header{Kind: KindView, Members: c.view, Seq: 4, Site: l.Site(0, 0)}
					h.Put(rows[i][m], make([]RowEntry, RowTable(rows[i][m])))
				}
			}
		}
		if got, _, ok := l.SetView(0, rows, c.filling); !ok || got != c.view {
			t.Fatalf("the view is %b", got)
		}
		if got := l.Enough(0, c.read); got != c.want {
			t.Errorf("%v, view %b, read %b: enough %v", c.g, c.view, c.read, got)
		}
	}
}
