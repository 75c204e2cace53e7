package raid

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// runs counts the runs of consecutive rows in placements. Each is one operation
// on every member that the batch is written to.
type runs struct {
	rows, runs, batches int
	hist                [6]int // runs of 1, 2-3, 4-7, 8-15, 16-31 and 32 rows
}

func (r *runs) add(p *Placement) {
	r.batches++
	r.rows += p.Rows
	n := 1
	for i := 1; i <= p.Rows; i++ {
		if i < p.Rows && p.Index[i] == p.Index[i-1]+1 {
			n++
			continue
		}
		b := 0
		for n>>(b+1) > 0 {
			b++
		}
		r.runs++
		r.hist[b]++
		n = 1
	}
}

// ager overwrites the pages of a Log and cleans as package client does, without
// any memory behind it.
type ager struct {
	tb     testing.TB
	log    *Log
	slots  []Slot
	items  []Item
	p      Placement
	on     bool // cleaning goes on until CleanNone
	writes runs
	moves  runs
	pages  int // written for the user
	moved  int

	reserving time.Duration // spent in Reserve for the user's pages, and in reading the clock
}

// reserve is Reserve for the user's pages, timed.
func (a *ager) reserve(n int) bool {
	start := time.Now()
	ok := a.log.Reserve(n, false, &a.p)
	a.reserving += time.Since(start)
	return ok
}

func newAger(tb testing.TB, g Geometry, groups int, rows uint32, fill int) *ager {
	pages := uint64(groups) * uint64(rows) * uint64(g.K) * uint64(fill) / 100
	l, err := NewLog(LogConfig{Geometry: g, Pages: pages, Groups: groups, Rows: rows})
	if err != nil {
		tb.Fatal(err)
	}
	for gi := range groups {
		for c := range g.Members() {
			l.SetUp(GroupID(gi), Col(c), true)
		}
	}
	return &ager{tb: tb, log: begin(l)}
}

func (a *ager) commit() {
	a.log.Commit(&a.p, a.items[:a.p.N], a.p.Members)
	a.log.Advance()
	a.log.Advance()
}

// clean moves one batch of victims; false: there is nothing to gain.
func (a *ager) clean() bool {
	a.slots = a.log.Victims(a.slots[:0])
	a.items = a.items[:0]
	for _, s := range a.slots {
		c, _ := a.log.Content(s)
		a.items = append(a.items, Item{Kind: ItemMove, Page: c.Page, From: s})
	}
	if len(a.items) == 0 || !a.log.Reserve(len(a.items), true, &a.p) {
		return false
	}
	a.moves.add(&a.p)
	a.moved += a.p.N
	a.commit()
	return true
}

// write writes one full batch of the pages that next gives.
func (a *ager) write(next func() PageNo) {
	need := a.log.CleanNeed()
	a.on = need != CleanNone && (a.on || need >= CleanSoon)
	if a.on {
		a.clean()
	}
	a.items = a.items[:0]
	for range a.log.MaxPages() {
		a.items = append(a.items, Item{Kind: ItemPage, Page: next()})
	}
	pages := a.items
	for !a.reserve(len(pages)) {
		a.items = make([]Item, 0, len(pages))
		if !a.clean() {
			a.tb.Fatal("no rows, and nothing to clean")
		}
	}
	a.items = pages
	a.writes.add(&a.p)
	a.pages += a.p.N
	a.commit()
}

// BenchmarkRuns ages a volume with five times its pages and then measures how
// long the runs of consecutive rows of its batches are, the operations a MiB
// that a member gets (8 is the least), what one Reserve takes and the pages
// written a user's page.
func BenchmarkRuns(b *testing.B) {
	for _, g := range []Geometry{{1, 1}, {4, 2}} {
		for _, fill := range []int{70, 80, 90} {
			for _, load := range []string{"uniform", "zipf", "sequential"} {
				b.Run(fmt.Sprintf("%v/%d/%s", g, fill, load), func(b *testing.B) {
					a := newAger(b, g, 4, 4096, fill)
					n := a.log.pages
					rnd := rand.New(rand.NewPCG(1, 2))
					zipf := rand.NewZipf(rnd, 1.1, 1, n-1)
					at := uint64(0)
					sequential := func() PageNo { at++; return PageNo(at % n) }
					next := sequential
					switch load {
					case "uniform":
						next = func() PageNo { return PageNo(rnd.Uint64N(n)) }
					case "zipf": // hot pages lie anywhere: times a prime, not in order
						next = func() PageNo { return PageNo(zipf.Uint64() * 0x9e3779b1 % n) }
					}
					for a.pages < int(n) {
						a.write(sequential)
					}
					for a.pages < 6*int(n) {
						a.write(next)
					}
					if err := a.log.Check(0); err != nil {
						b.Fatal(err)
					}
					a.writes, a.moves, a.pages, a.moved, a.reserving = runs{}, runs{}, 0, 0, 0
					for b.Loop() {
						a.write(next)
					}
					w := &a.writes
					b.ReportMetric(float64(w.rows)/float64(w.runs), "rows/run")
					b.ReportMetric(float64(w.runs)*256/float64(w.rows), "ops/MiB")
					b.ReportMetric(float64(a.reserving.Nanoseconds())/float64(b.N), "ns/reserve")
					b.ReportMetric(1+float64(a.moved)/float64(a.pages), "WA")
					b.Logf("runs of 1, 2-3, 4-7, 8-15, 16-31, 32 rows: %v in %d batches; moves %v in %d", w.hist, w.batches, a.moves.hist, a.moves.batches)
				})
			}
		}
	}
}
