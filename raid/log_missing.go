package raid

// missTally counts the rows in use of a group that some member misses, by the
// set of members that miss them. Failures come in few combinations, so that
// few sets say of millions of rows what Health wants to know.
//
// When a group sees more sets than there is room for, the tally is blind until
// no row misses anything: then Health looks at the rows themselves.
type missTally struct {
	sets  [missSets]missSet // the first n are in use, in no order
	n     int
	rows  uint32 // that miss anything, also when blind
	blind bool
}

// missSets is enough for every set of at most two of eleven members.
const missSets = 64

type missSet struct {
	mask uint32 // members that miss these rows; never 0
	rows uint32 // > 0
}

// change moves a row from the set before to the set after; 0 is a row that
// nobody misses, or that is not in use.
func (t *missTally) change(before, after uint32) {
	if before == after {
		return
	}
	if before != 0 {
		t.take(before)
	}
	if after != 0 {
		t.put(after)
	}
}

func (t *missTally) put(mask uint32) {
	t.rows++
	if t.blind {
		return
	}
	for i := range t.sets[:t.n] {
		if t.sets[i].mask == mask {
			t.sets[i].rows++
			return
		}
	}
	if t.n == len(t.sets) {
		t.blind = true
		return
	}
	t.sets[t.n] = missSet{mask: mask, rows: 1}
	t.n++
}

func (t *missTally) take(mask uint32) {
	if t.rows--; t.rows == 0 {
		*t = missTally{}
		return
	}
	if t.blind {
		return
	}
	for i := range t.sets[:t.n] {
		s := &t.sets[i]
		if s.mask != mask {
			continue
		}
		if s.rows--; s.rows == 0 {
			t.n--
			*s = t.sets[t.n]
		}
		return
	}
	panic("raid: a row leaves a set of missing members that it was never in")
}

// missedBy is the set of members that miss row i of the group.
func (l *Log) missedBy(g *logGroup, i uint32) (mask uint32) {
	for c := range l.g.Members() {
		if g.nmissed[c] != 0 && hasBit(g.missed[c], i) {
			mask |= 1 << c
		}
	}
	return mask
}

// miss makes after the set of members that miss row i of the group.
func (l *Log) miss(g *logGroup, i, after uint32) {
	before := l.missedBy(g, i)
	if before == after {
		return
	}
	for c := range l.g.Members() {
		switch had, has := before&(1<<c) != 0, after&(1<<c) != 0; {
		case has && !had:
			setBit(g.missed[c], i)
			g.nmissed[c]++
		case had && !has:
			clearBit(g.missed[c], i)
			if g.nmissed[c]--; g.nmissed[c] == 0 && (g.damaged|^g.view.whole)&(1<<c) != 0 {
				g.damaged &^= 1 << c
				l.viewDue = true
			}
		}
	}
	g.tally.change(before, after)
}
