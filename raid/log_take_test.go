package raid

import (
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// freeOnly makes a log of one group of which exactly the given rows are free;
// the others are reserved.
func freeOnly(t *testing.T, rows uint32, free []Index) *Log {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: Geometry{K: 1, M: 1}, Pages: uint64(rows), Groups: 1, Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUp(0, 0, true)
	l.SetUp(0, 1, true)
	begin(l)
	for i := Index(viewRows); i < Index(rows); i++ {
		l.unfree(&l.groups[0], i)
	}
	for _, i := range free {
		l.makeFree(&l.groups[0], i)
	}
	if err := l.Check(int(rows) - viewRows - len(free)); err != nil {
		t.Fatal(err)
	}
	return l
}

// settleNow ends a placement of which only the rows matter.
func settleNow(l *Log, p *Placement) {
	g := &l.groups[p.Group]
	g.window.end(p.Seq, batchSettled)
	g.settle()
}

// every gives n rows from first on, step apart.
func every(first, step Index, n int) []Index {
	s := make([]Index, n)
	for k := range s {
		s[k] = first + Index(k)*step
	}
	return s
}

// A long run behind single free rows is taken first, as far as the search goes,
// and the single ones after it: nothing is refused while a row is free.
func TestTakePrefersRuns(t *testing.T) {
	single := every(2, 2, 10*32) // words 0 to 10
	for _, c := range []struct {
		name  string
		rows  uint32
		free  [][]Index // in which order rows must come, 32 at a time
		first []Index
	}{
		{"one of 32", 2048, [][]Index{every(645, 1, 32), single}, every(645, 1, 32)},
		{"two of 16", 2048, [][]Index{every(645, 1, 16), every(900, 1, 16), single}, append(every(645, 1, 16), every(900, 1, 16)...)},
		{"16 before 8", 2048, [][]Index{every(900, 1, 16), every(645, 1, 8), single}, append(append(every(900, 1, 16), every(645, 1, 8)...), single[:8]...)},
		{"too far ahead", 4096, [][]Index{every(runWords*64, 1, 32), every(2, 2, 16*32)}, single[:32]},
		{"few rows free", 4096, [][]Index{every(645, 1, 32), single}, single[:32]},
	} {
		t.Run(c.name, func(t *testing.T) {
			free := slices.Concat(c.free...)
			l := freeOnly(t, c.rows, free)
			var p Placement
			var got []Index
			for l.Reserve(l.MaxPages(), true, &p) {
				settleNow(l, &p)
				got = append(got, p.Index[:p.Rows]...)
			}
			if len(got) < len(c.first) || !slices.Equal(got[:len(c.first)], c.first) {
				t.Errorf("took first %v, want %v", got[:min(len(got), len(c.first))], c.first)
			}
			slices.Sort(got)
			slices.Sort(free)
			if !slices.Equal(got, free) {
				t.Errorf("took %d rows before it refused, of %d free ones", len(got), len(free))
			}
			if err := l.Check(int(c.rows) - viewRows); err != nil {
				t.Error(err)
			}
		})
	}
}

// levelOf is the level of the run of free rows that row i lies in, within its
// word: what runLevel and inRuns say, counted.
func levelOf(free []uint64, i Index) int {
	from, to := i, i
	for from%64 > 0 && hasBit(free, uint32(from-1)) {
		from--
	}
	for to%64 < 63 && hasBit(free, uint32(to+1)) {
		to++
	}
	return min(maxRunLevel, bits.Len32(uint32(to-from+1))-1)
}

func TestTakeOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		free := make([]uint64, rapid.IntRange(1, runWords+8).Draw(t, "words"))
		nfree := 0
		for w := range free {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				free[w] = rapid.Uint64().Draw(t, "word")
			case 1:
				free[w] = rapid.Uint64().Draw(t, "a") & rapid.Uint64().Draw(t, "b") & rapid.Uint64().Draw(t, "c")
			case 2:
				free[w] = (1<<rapid.IntRange(0, 64).Draw(t, "length") - 1) << rapid.IntRange(0, 63).Draw(t, "at")
			}
			nfree += bits.OnesCount64(free[w])
		}
		if nfree == 0 {
			return
		}
		var before [maxRunLevel + 1]int // rows of each level that takeRuns may look at
		hand := rapid.IntRange(0, len(free)-1).Draw(t, "hand")
		for k := range min(runWords, len(free)) {
			w := (hand + k) % len(free)
			top := 0
			for b := range 64 {
				if i := Index(w*64 + b); hasBit(free, uint32(i)) {
					before[levelOf(free, i)]++
					top = max(top, levelOf(free, i))
				}
			}
			if got := runLevel(free[w]); got != top {
				t.Fatalf("runLevel of %b: %d, want %d", free[w], got, top)
			}
		}
		was := slices.Clone(free)
		g := &logGroup{free: free, hand: uint32(hand)}
		p := Placement{Rows: rapid.IntRange(1, min(MaxBatchPages, nfree)).Draw(t, "rows")}
		n := g.takeRuns(&p)
		if int(g.hand) >= len(free) {
			t.Fatalf("hand at word %d of %d", g.hand, len(free))
		}
		var taken [maxRunLevel + 1]int
		for _, i := range p.Index[:n] {
			if !hasBit(was, uint32(i)) {
				t.Fatalf("row %d taken, and not free", i)
			}
			taken[levelOf(was, i)]++
		}
		want := p.Rows
		for level := maxRunLevel; level > 0; level-- {
			k := min(want, before[level])
			if taken[level] != k {
				t.Fatalf("took %v rows of runs of level 0 to %d, there were %v and %d wanted", taken, maxRunLevel, before, p.Rows)
			}
			want -= k
		}
		if taken[0] != 0 || n != p.Rows-want {
			t.Fatalf("took %v, said %d", taken, n)
		}
		for _, i := range p.Index[:n] {
			if hasBit(free, uint32(i)) {
				t.Fatalf("row %d taken, and still free", i)
			}
			setBit(free, uint32(i))
		}
		if !slices.Equal(free, was) {
			t.Fatal("rows that were not taken changed, or one was taken twice")
		}
	})
}

func TestTakeAllocatesNothing(t *testing.T) {
	const rows = 4096
	l := freeOnly(t, rows, every(3, 3, rows/3-1))
	var p Placement
	if n := testing.AllocsPerRun(100, func() {
		l.Reserve(l.MaxPages(), true, &p)
		settleNow(l, &p)
		for _, i := range p.Index[:p.Rows] {
			l.makeFree(&l.groups[0], i)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
