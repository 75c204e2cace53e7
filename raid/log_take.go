package raid

import "math/bits"

const (
	// runWords is how many words of free, 64 rows each, takeRuns looks at. It
	// bounds the work.
	runWords = 32

	// runShare: takeRuns is for groups of which at least one row in runShare is
	// free. With fewer, next to no free row has a free neighbour, and looking
	// for runs costs more than it finds.
	runShare = 8

	// maxRunLevel: runs of 1<<maxRunLevel rows and more are equally good.
	maxRunLevel = 4
)

// takeRuns takes rows for p that lie in runs of at least 16 free ones, then 8, 4
// and 2, of the runWords words from the group's hand on, and reports how many:
// p.Rows, or all there are of such. A run is one operation on every member.
// Single rows are passed over as long as that finds enough; they stay free and
// may get free neighbours. Runs count within a word.
//
// Where the first pass has enough the hand is where that ended, so that frees in
// order are taken in order; else, when there is enough, it moves by one word.
func (g *logGroup) takeRuns(p *Placement) int {
	words := min(runWords, len(g.free))
	n, w, longest := 0, int(g.hand), 0
	var levels [runWords]uint8 // of the words; an upper bound
	for k := range words {
		level := runLevel(g.free[w])
		if level == maxRunLevel {
			if n = g.takeWord(w, level, n, p); n == p.Rows {
				g.hand = uint32(w)
				return n
			}
			level--
		}
		levels[k] = uint8(level)
		longest = max(longest, level)
		w = g.next(w)
	}
	for level := longest; level > 0; level-- {
		w = int(g.hand)
		for k := range words {
			if int(levels[k]) >= level {
				if n = g.takeWord(w, level, n, p); n == p.Rows {
					g.hand = uint32(g.next(int(g.hand)))
					return n
				}
			}
			w = g.next(w)
		}
	}
	return n
}

// takeWord takes the rows of word w that lie in runs of 1<<level free ones or
// more, until p has all its rows; it had n and now has as many as it returns.
func (g *logGroup) takeWord(w, level, n int, p *Placement) int {
	m := inRuns(g.free[w], level)
	had := m
	for ; m != 0 && n < p.Rows; m &= m - 1 {
		p.Index[n] = Index(w*64 + bits.TrailingZeros64(m))
		n++
	}
	g.free[w] &^= had &^ m
	return n
}

// next is the word of free after w.
func (g *logGroup) next(w int) int {
	if w++; w < len(g.free) {
		return w
	}
	return 0
}

// runLevel is the greatest level, up to maxRunLevel, at which inRuns gives any.
func runLevel(m uint64) int {
	for i := range maxRunLevel {
		if m &= m >> (1 << i); m == 0 {
			return i
		}
	}
	return maxRunLevel
}

// inRuns gives the bits of m that lie in runs of 1<<level set ones or more.
func inRuns(m uint64, level int) uint64 {
	for i := range level {
		m &= m >> (1 << i) // starts of runs of 2<<i
	}
	for i := range level {
		m |= m << (1 << i)
	}
	return m
}
