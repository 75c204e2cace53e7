package raid

import "testing"

// From which members a group is recovered: from K, of which so many are in the view
// that at most M of it are missing, and not all; and unless all are read that are not
// lost, at most M of all may miss anything. Who is being rebuilt counts as missing.
func TestEnoughToRecover(t *testing.T) {
	for _, c := range []struct {
		g                   Geometry
		view, filling, lost uint32
		read                uint32
		want                bool
	}{
		{Geometry{K: 2, M: 1}, 0b111, 0, 0, 0b111, true},
		{Geometry{K: 2, M: 1}, 0b111, 0, 0, 0b011, true},
		{Geometry{K: 2, M: 1}, 0b111, 0, 0, 0b100, false},
		{Geometry{K: 2, M: 1}, 0b011, 0, 0, 0b101, false},         // two of three may miss anything
		{Geometry{K: 2, M: 1}, 0b011, 0, 0b010, 0b101, true},      // nobody else is left
		{Geometry{K: 2, M: 1}, 0b001, 0, 0b110, 0b001, false},     // one is not K
		{Geometry{K: 2, M: 1}, 0b111, 0b010, 0b100, 0b011, false}, // one of the two is being rebuilt
		{Geometry{K: 2, M: 1}, 0b111, 0b010, 0, 0b111, true},
		{Geometry{K: 3, M: 2}, 0b11111, 0, 0, 0b00111, true},
		{Geometry{K: 3, M: 2}, 0b11111, 0, 0, 0b00011, false},
		{Geometry{K: 4, M: 1}, 0b11111, 0, 0, 0b01111, true},
		{Geometry{K: 1, M: 2}, 0b011, 0, 0, 0b001, true},
		{Geometry{K: 1, M: 2}, 0b011, 0, 0b011, 0b100, false}, // none of the view
		{Geometry{K: 2, M: 2}, 0b0111, 0, 0, 0b0110, true},
		{Geometry{K: 2, M: 2}, 0b0111, 0, 0, 0b1100, false},
		{Geometry{K: 1, M: 1}, 0b11, 0b10, 0, 0b10, false},
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
				rows[i][m] = made(c.g, Col(m), l.Site(0, Index(i)))
				if i == 0 {
					h := Header{Kind: KindView, Members: c.view, CRC: c.view, Seq: 4, Site: l.Site(0, 0)}
					h.Put(rows[i][m], make([]RowEntry, RowTable(rows[i][m])))
				}
			}
		}
		if ok, got := l.SetView(0, rows, c.filling), l.Witnesses(0).View; !ok || got != c.view {
			t.Fatalf("the view is %b", got)
		}
		for m := range Col(c.g.Members()) {
			if c.lost&(1<<m) != 0 {
				l.groups[0].lost |= 1 << m // after the view was made
			}
		}
		if got := l.Enough(0, c.read); got != c.want {
			t.Errorf("%v, view %b, being rebuilt %b, lost %b, read %b: enough %v", c.g, c.view, c.filling, c.lost, c.read, got)
		}
	}
}
