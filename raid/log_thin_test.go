package raid

import "testing"

// A row that fewer members hold than could be lost is written only when it is
// noted who misses it, and not answered when that note was taken back.
func TestThinRows(t *testing.T) {
	for _, c := range []struct {
		g    Geometry
		out  int // members that are away
		thin bool
	}{
		{Geometry{K: 1, M: 1}, 1, true},
		{Geometry{K: 1, M: 2}, 1, true},
		{Geometry{K: 1, M: 2}, 2, true},
		{Geometry{K: 2, M: 2}, 1, false},
		{Geometry{K: 2, M: 2}, 2, true},
		{Geometry{K: 4, M: 2}, 2, false},
		{Geometry{K: 2, M: 1}, 1, false},
	} {
		l, err := NewLog(LogConfig{Geometry: c.g, Pages: 256, Groups: 1, Rows: 1024})
		if err != nil {
			t.Fatal(err)
		}
		l.GuardThin()
		for m := range c.g.Members() {
			l.SetUp(0, Col(m), true)
		}
		begin(l)
		for m := range c.g.Members() {
			l.SetUp(0, Col(m), m >= c.out)
		}
		out := uint32(1)<<c.out - 1
		var p Placement
		if ok := l.Reserve(1, false, &p); ok == c.thin || l.Writable() == c.thin || (l.Unnoted(0) == out) != c.thin {
			t.Errorf("%v with %d members away: reserved %v, writable %v, to be noted %b", c.g, c.out, ok, l.Writable(), l.Unnoted(0))
		}
		if !c.thin {
			continue
		}
		for m := range c.out {
			if l.Reserve(1, false, &p) {
				t.Errorf("%v: reserved with %d of %d members noted", c.g, m, c.out)
			}
			l.SetNoted(0, Col(m), true, false)
		}
		if l.Unnoted(0) != 0 || !l.Reserve(1, false, &p) || !l.MayCommit(&p) {
			t.Errorf("%v with %d members away, noted: not writable", c.g, c.out)
		}
		l.SetNoted(0, 0, false, false)
		if l.MayCommit(&p) {
			t.Errorf("%v: a row may be answered of which it is not noted who misses it", c.g)
		}
		l.Abandon(&p)
		if err := l.Check(0); err != nil {
			t.Error(err)
		}
		// Everybody is back: notes do not matter.
		for m := range c.g.Members() {
			l.SetUp(0, Col(m), true)
		}
		if !l.Reserve(1, false, &p) || !l.MayCommit(&p) {
			t.Errorf("%v: not writable when whole", c.g)
		}
	}
}

// A member that came back with rows that were given up is noted before the log begins only
// where what lies there at others is dead and can be erased only then.
func TestStaysOutTillBegin(t *testing.T) {
	row := Index(viewRows)
	for name, c := range map[string]struct {
		change func(l *Log, g *logGroup)
		out    uint32
	}{
		"dead":         {func(*Log, *logGroup) {}, 0b10},
		"to be erased": {func(l *Log, g *logGroup) { setBit(g.doomed, uint32(row)) }, 0},
		"being erased": {func(l *Log, g *logGroup) { g.erasing = 1 }, 0},
		"in use":       {func(l *Log, g *logGroup) { l.live[l.row(0, row)] = 1 }, 0},
		"begun":        {func(l *Log, g *logGroup) { l.opened = true }, 0},
		"lost":         {func(l *Log, g *logGroup) { g.lost = 0b10 }, 0},
		"in the view":  {func(l *Log, g *logGroup) { g.view.members = 0b11 }, 0},
	} {
		l, _ := recovering(t, Geometry{K: 1, M: 1}, 0b11, 0b01)
		g := &l.groups[0]
		l.setStale(g, 1, row, true)
		if c.change(l, g); l.tillBegin(g) != c.out {
			t.Errorf("%s: %b", name, l.tillBegin(g))
		}
	}
}
