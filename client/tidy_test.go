package client

import (
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// TestTidy: what random overwrites leave sparse is packed when they rest, to the
// bound and not before, and every page is as it was written.
func TestTidy(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 2, M: 1}, {K: 4, M: 2}, {K: 8, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			const pages = 4096
			f := newSlowNet(g.Members())
			// Twice the rows that the bound allows: the cleaner has no need of its own.
			l := f.layout(raid.LayoutLog, g, pages, 4, uint32(pages*3/4/g.K))
			l.TargetFill = 80
			v := openTest(t, f, l)
			defer closeTest(t, v)
			r := rand.New(rand.NewPCG(7, uint64(g.K)))
			want := randomBytes(r, int(v.Size()))
			if _, err := v.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			overwrite(t, v, r, want, pages)
			v.mu.Lock()
			sparse := v.mu.log.Sparse()
			v.mu.Unlock()
			if !sparse {
				t.Fatal("it is not sparse: this shows nothing")
			}
			waitFor(t, func() bool { return packed(v) })
			// At rest it stays at rest.
			moved := v.Report().Counters["cleaned_pages"]
			if moved == 0 {
				t.Error("nothing was moved")
			}
			time.Sleep(3 * time.Duration(tidyAfter))
			if n := v.Report().Counters["cleaned_pages"]; n > moved+int64(2*raid.MaxBatchPages*g.K) {
				t.Errorf("%d more pages moved below the bound", n-moved)
			}
			// Twice: writers come back, and rest again.
			overwrite(t, v, r, want, pages/4)
			waitFor(t, func() bool { return packed(v) })
			compareAll(t, v, want)
			if err := v.check(); err != nil {
				t.Fatal(err)
			}
		}))
	}
}

// TestTidyHurt: packing stops when a member goes away, since what it moves then
// has to be rebuilt, and goes on when it is back.
func TestTidyHurt(t *testing.T) { virtual(testTidyHurt)(t) }

func testTidyHurt(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	const pages = 8192
	f := newSlowNet(g.Members())
	l := f.layout(raid.LayoutLog, g, pages, 4, uint32(pages*3/4/g.K))
	l.TargetFill = 80
	v := openTest(t, f, l)
	defer closeTest(t, v)
	r := rand.New(rand.NewPCG(9, 9))
	want := randomBytes(r, int(v.Size()))
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	overwrite(t, v, r, want, pages)
	moved := func() int64 { return v.Report().Counters["cleaned_pages"] }
	waitFor(t, func() bool { return moved() > 0 })
	f.away("s0", true)
	waitFor(t, func() bool { return len(v.Report().Suspect) > 0 })
	before := moved()
	time.Sleep(3 * time.Duration(tidyAfter))
	if n := moved() - before; n > 4*raid.MaxBatchPages {
		t.Errorf("%d pages were moved while a member was away", n)
	}
	if packed(v) {
		t.Error("all was packed before the member went away: this shows nothing")
	}
	f.away("s0", false)
	waitFor(t, func() bool { return packed(v) })
	compareAll(t, v, want)
	if err := v.check(); err != nil {
		t.Fatal(err)
	}
}

// overwrite writes n pages at random, and notes in want what they hold.
func overwrite(t *testing.T, v *Volume, r *rand.Rand, want []byte, n int) {
	t.Helper()
	for range n {
		p := r.IntN(len(want) / raid.PageSize)
		b := randomBytes(r, raid.PageSize)
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		copy(want[p*raid.PageSize:], b)
	}
}

// packed reports whether no more is stored than the bound for a volume at rest.
func packed(v *Volume) bool {
	c := v.Report().Counters
	return c["stored_bytes"] <= c["stored_bytes_bound"]
}
