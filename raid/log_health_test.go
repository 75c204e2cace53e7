package raid

import (
	"math/rand/v2"
	"testing"
)

// healthByRows is Health without what it keeps count of.
func healthByRows(l *Log) Health {
	h := Health{RedundancyLeft: l.g.M}
	all := uint32(1)<<l.g.Members() - 1
	for i := range l.groups {
		g := &l.groups[i]
		missed := false
		for _, n := range g.nmissed {
			missed = missed || n > 0
		}
		if g.in() == all && g.attested() == all && !missed && g.ndoomed+g.erasing+g.nunsure == 0 {
			continue
		}
		h.DegradedGroups++
		h.RedundancyLeft = min(h.RedundancyLeft, popcount(g.up&^g.lost)-l.g.K)
		l.rowHealth(GroupID(i), &h)
	}
	if h.LostPages > 0 {
		h.RedundancyLeft = -1
	}
	h.RedundancyLeft = max(h.RedundancyLeft, -1)
	return h
}

// filledLog is a log of one batch after another, all members up.
func filledLog(t testing.TB, g Geometry, groups int, rows uint32) *Log {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: g, Pages: uint64(groups) * uint64(rows) * uint64(g.K), Groups: groups, Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	for gr := range GroupID(groups) {
		for c := range Col(g.Members()) {
			l.SetUp(gr, c, true)
		}
	}
	begin(l)
	items := make([]Item, l.MaxPages())
	var p Placement
	for page := PageNo(0); l.Reserve(l.MaxPages(), false, &p); page += PageNo(p.N) {
		for i := range p.N {
			items[i] = Item{Kind: ItemPage, Page: page + PageNo(i)}
		}
		l.Commit(&p, items[:p.N], p.Members)
	}
	return l
}

// TestHealthOfManySets: rows miss more different sets of members than are
// counted; what Health says stays right, through to when all is whole again.
func TestHealthOfManySets(t *testing.T) {
	g := Geometry{K: 8, M: 4}
	l := filledLog(t, g, 1, 4096)
	r := rand.New(rand.NewPCG(1, 2))
	check := func(when string) {
		t.Helper()
		if got, want := l.Health(), healthByRows(l); got != want {
			t.Fatalf("%s: health says %+v, the rows %+v", when, got, want)
		}
		if err := l.Check(0); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	check("whole")
	for i := range Index(4096) {
		for range r.IntN(5) {
			l.SetMissed(0, i, Col(r.IntN(g.Members())))
		}
		if i%512 == 0 {
			check("losing")
		}
	}
	if !l.groups[0].tally.blind {
		t.Fatal("the table is larger than this test thinks")
	}
	l.SetUp(0, 3, false)
	check("a member down")
	l.SetUp(0, 3, true)
	for c := range Col(g.Members()) {
		for i := range Index(4096) {
			l.clearMissed(0, i, c)
		}
	}
	check("filled")
	if l.groups[0].tally.blind || l.groups[0].tally.n != 0 {
		t.Fatalf("nothing is missing, but the tally is %+v", l.groups[0].tally)
	}
	l.SetMissed(0, 7, 2)
	check("one row")
	if h := l.Health(); h.DegradedRows != 1 || h.RedundancyLeft != 3 {
		t.Fatalf("one row misses one member: %+v", h)
	}
}

// BenchmarkHealth is what a report of a volume of 64 GiB with a lost and
// replaced member in every group costs: it is asked for under the lock of the
// page path.
func BenchmarkHealth(b *testing.B) {
	g := Geometry{K: 4, M: 2}
	const rows = 16384 // of 64 MiB
	groups := 64 << 30 / (rows * g.K * PageSize)
	l := filledLog(b, g, groups, rows)
	for i := range GroupID(groups) {
		l.Replace(i, Col(i)%6)
		l.SetUp(i, Col(i)%6, true)
	}
	b.Run("sets", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if h := l.Health(); h.DegradedGroups != groups {
				b.Fatal(h)
			}
		}
	})
	b.Run("rows", func(b *testing.B) {
		for b.Loop() {
			healthByRows(l)
		}
	})
}
