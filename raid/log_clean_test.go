package raid

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// churn drives a Log without memory behind it: page-outs and the cleaner,
// each batch committed at once.
type churn struct {
	log   *Log
	rnd   *rand.Rand
	wrote int // pages of page-outs
	moved int // pages that the cleaner moved
}

func newChurn(t testing.TB, g Geometry, groups int, rows uint32, fill int) *churn {
	t.Helper()
	slots := uint64(groups) * uint64(rows) * uint64(g.K)
	log, err := NewLog(LogConfig{Geometry: g, Groups: groups, Rows: rows, Pages: slots * uint64(fill) / 100})
	if err != nil {
		t.Fatal(err)
	}
	for i := range groups {
		for c := range g.Members() {
			log.SetUp(GroupID(i), Col(c), true)
		}
	}
	return &churn{log: begin(log), rnd: newRand(uint64(fill))}
}

// write writes the pages in batches of up to n, cleaning when the log asks
// for it.
func (c *churn) write(pages []PageNo, n int) error {
	for len(pages) > 0 {
		batch := pages[:min(n, len(pages), c.log.MaxPages())]
		var p Placement
		for round := 0; !c.log.Reserve(len(batch), false, &p); round++ {
			if round == 1000 {
				return fmt.Errorf("stuck: %+v", c.log.Stats())
			}
			c.advance()
			c.clean()
		}
		items := make([]Item, p.N)
		for i := range items {
			items[i] = Item{Kind: ItemPage, Page: batch[i]}
		}
		c.log.Commit(&p, items, p.Members)
		c.wrote += p.N
		pages = pages[p.N:]
		c.advance()
		if c.log.CleanNeed() >= CleanSoon {
			c.clean()
		}
	}
	return nil
}

// clean moves one batch of victims.
func (c *churn) clean() {
	slots := c.log.Victims(nil)
	if len(slots) == 0 {
		return
	}
	var p Placement
	if !c.log.Reserve(len(slots), true, &p) {
		return
	}
	items := make([]Item, p.N)
	for i := range items {
		what, ok := c.log.Content(slots[i])
		if !ok {
			panic("a victim is dead")
		}
		items[i] = Item{Kind: ItemMove, Page: what.Page, From: slots[i]}
	}
	c.log.Commit(&p, items, p.Members)
	c.moved += p.N
	c.advance()
}

func (c *churn) advance() {
	c.log.Advance()
	c.log.Advance()
}

// random is n random pages of the volume, without repetition inside a batch of
// MaxPages.
func (c *churn) random(n int) []PageNo {
	pages := make([]PageNo, 0, n)
	for len(pages) < n {
		batch := len(pages)
		for len(pages) < min(batch+c.log.MaxPages(), batch+int(c.log.pages), n) {
			if p := PageNo(c.rnd.Uint64N(c.log.pages)); !slices.Contains(pages[batch:], p) {
				pages = append(pages, p)
			}
		}
	}
	return pages
}

func (c *churn) all() []PageNo {
	pages := make([]PageNo, c.log.pages)
	for i := range pages {
		pages[i] = PageNo(i)
	}
	return pages
}

// Every page of the volume in use and overwritten at random, in batches of all
// sizes: the cleaner always gains a row, and a page-out always gets one.
func TestCleanerNeverStuckProperty(t *testing.T) {
	geometries := []Geometry{{1, 0}, {1, 1}, {2, 1}, {4, 2}, {8, 2}, {16, 4}}
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom(geometries).Draw(t, "geometry")
		groups := rapid.IntRange(1, 4).Draw(t, "groups")
		rows := rapid.Uint32Range(130, 400).Draw(t, "rows")
		fill := rapid.IntRange(50, 85).Draw(t, "fill")
		batch := rapid.IntRange(1, MaxBatchPages*g.K).Draw(t, "batch")
		slots := uint64(groups) * uint64(rows) * uint64(g.K)
		log, err := NewLog(LogConfig{Geometry: g, Groups: groups, Rows: rows, Pages: slots * uint64(fill) / 100})
		if err != nil {
			t.Fatal(err)
		}
		for i := range groups {
			for c := range g.Members() {
				log.SetUp(GroupID(i), Col(c), true)
			}
		}
		c := &churn{log: begin(log), rnd: newRand(rapid.Uint64().Draw(t, "seed"))}
		if err := c.write(c.all(), batch); err != nil {
			t.Fatal(err)
		}
		if err := c.write(c.random(int(slots)), batch); err != nil {
			t.Fatal(err)
		}
		if err := log.Check(0); err != nil {
			t.Fatal(err)
		}
	})
}

// The architecture's numbers: writes per user write under uniform random
// overwrites with K=4.
func TestCleaningCost(t *testing.T) {
	for _, test := range []struct {
		fill  int
		bound float64
	}{{70, 1.39}, {80, 1.82}, {85, 1.99}} {
		c := newChurn(t, Geometry{K: 4, M: 2}, 4, 4096, test.fill)
		if err := c.write(c.all(), 128); err != nil {
			t.Fatal(err)
		}
		slots := 4 * 4096 * 4
		if err := c.write(c.random(slots), 128); err != nil { // to the steady state
			t.Fatal(err)
		}
		c.wrote, c.moved = 0, 0
		if err := c.write(c.random(slots), 128); err != nil {
			t.Fatal(err)
		}
		cost := float64(c.wrote+c.moved) / float64(c.wrote)
		t.Logf("%d %% full: %.2f writes per write", test.fill, cost)
		if cost > test.bound*1.15 {
			t.Errorf("%d %% full: %.2f writes per write, the architecture says %.2f", test.fill, cost, test.bound)
		}
	}
}

// Whatever was written, a volume that is left alone can be packed down to the
// bound on its rows, and packing it ends.
func TestBoundProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom([]Geometry{{1, 1}, {2, 1}, {4, 2}, {8, 2}, {16, 4}}).Draw(t, "geometry")
		groups := rapid.IntRange(1, 4).Draw(t, "groups")
		rows := rapid.Uint32Range(130, 400).Draw(t, "rows")
		fill := rapid.IntRange(10, 85).Draw(t, "fill")
		slots := uint64(groups) * uint64(rows) * uint64(g.K)
		log, err := NewLog(LogConfig{
			Geometry: g, Groups: groups, Rows: rows, Pages: slots * uint64(fill) / 100,
			TargetFill: rapid.IntRange(fill, 95).Draw(t, "target"),
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range groups {
			for c := range g.Members() {
				log.SetUp(GroupID(i), Col(c), true)
			}
		}
		c := &churn{log: begin(log), rnd: newRand(rapid.Uint64().Draw(t, "seed"))}
		// Much of it once, some of it often: as sparse as it gets.
		for range rapid.IntRange(1, 4).Draw(t, "waves") {
			n := rapid.IntRange(1, int(log.pages)).Draw(t, "pages")
			if err := c.write(c.random(n), rapid.IntRange(1, MaxBatchPages*g.K).Draw(t, "batch")); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; log.Sparse(); n++ {
			had := c.moved
			if c.clean(); c.moved == had || n > int(slots) {
				t.Fatalf("more than %d rows, and no way to fewer: %+v", log.RowBound(), log.Stats())
			}
		}
		if st := log.Stats(); st.UsedRows*uint64(g.K)*uint64(log.fill) > st.Mapped*100+uint64(groups+1)*uint64(g.K)*log.fill {
			t.Fatalf("target %d %%: %+v", log.fill, st)
		}
		if err := log.Check(0); err != nil {
			t.Fatal(err)
		}
	})
}

// The page path's share of the log must not allocate: it runs while the kernel
// waits for memory.
func TestLogDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("closures escape under the race detector")
	}
	c := newChurn(t, Geometry{K: 4, M: 2}, 2, 512, 70)
	if err := c.write(c.all(), 128); err != nil {
		t.Fatal(err)
	}
	if err := c.write(c.random(2000), 128); err != nil {
		t.Fatal(err)
	}
	var p Placement
	items := make([]Item, c.log.MaxPages())
	slots := make([]Slot, 0, c.log.MaxPages())
	pages := c.random(len(items))
	if n := testing.AllocsPerRun(200, func() {
		if c.log.Reserve(len(items), false, &p) {
			for i := range p.N {
				items[i] = Item{Kind: ItemPage, Page: pages[i]}
			}
			c.log.Commit(&p, items[:p.N], p.Members)
		}
		if e := c.log.Lookup(pages[0]); e.Kind == Stored {
			at := c.log.Place(e.Slot)
			c.log.Survivors(at.Group, at.Index)
			c.log.FilledCols(at.Group, at.Index)
		}
		c.advance()
		c.log.CleanNeed()
		slots = c.log.Victims(slots[:0])
		c.log.Healable()
		c.log.HealVictims(slots[:0])
		c.log.SetUp(0, 5, false)
		c.log.Health()
		c.log.SetUp(0, 5, true)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLogBatch(b *testing.B) {
	c := newChurn(b, Geometry{K: 4, M: 2}, 4, 4096, 70)
	if err := c.write(c.all(), 128); err != nil {
		b.Fatal(err)
	}
	pages := c.random(1 << 16)
	b.SetBytes(int64(c.log.MaxPages()) * PageSize)
	at := 0
	for b.Loop() {
		if err := c.write(pages[at:at+128], 128); err != nil {
			b.Fatal(err)
		}
		at = (at + 128) % len(pages)
	}
}
