package raid

// Cleaning starts when fewer than cleanLow percent of the rows are free and
// stops at cleanHigh. The later rows are cleaned the fewer live pages they
// have, so both are small; what they must cover is the time that a few
// batches of the cleaner take.
const (
	cleanLow  = 2
	cleanHigh = 3
)

// CleanNeed says how urgent cleaning is.
type CleanNeed uint8

const (
	CleanNone   CleanNeed = iota
	CleanBehind           // below the high mark: go on if already cleaning
	CleanSoon             // below the low mark: start
	CleanNow              // writers wait for rows
)

// CleanNeed compares the free rows with the marks.
func (l *Log) CleanNeed() CleanNeed {
	rows := uint64(len(l.live))
	low := max(2*l.reserve, rows*cleanLow/100)
	switch {
	case l.free <= l.reserve:
		return CleanNow
	case l.free < low:
		return CleanSoon
	case l.free < low+max(MaxBatchPages, rows*(cleanHigh-cleanLow)/100):
		return CleanBehind
	}
	return CleanNone
}

// Victims picks up to 32 rows of one group whose live slots are cheapest to
// move, and appends these slots to dst. It is greedy: of all groups the one
// that has the emptiest rows, and there the rows that are about as empty, in
// order from where the last hunt ended. It gives nothing when no row has a
// dead or unfilled slot, or when none of those can be read now.
func (l *Log) Victims(dst []Slot) []Slot {
	best, level := -1, l.g.K
	count := uint32(0)
	for i := range l.groups {
		g := &l.groups[i]
		if popcount(g.up&^g.lost) < l.g.K {
			continue
		}
		for n := 1; n <= level && n < l.g.K; n++ {
			// A handful of rows is worth a batch only if nobody has more.
			if g.hist[n] == 0 || (n == level && g.hist[n] <= count) {
				continue
			}
			best, level, count = i, n, g.hist[n]
			break
		}
	}
	if best < 0 {
		return dst
	}
	return l.hunt(best, dst, func(row uint32) bool { return int(l.live[row]) <= level })
}

// HealVictims picks up to 32 rows that a member misses although it is up, as
// after a network fault: moved to new rows they have their full redundancy
// again, without a rebuild. Slots are appended to dst.
func (l *Log) HealVictims(dst []Slot) []Slot {
	for i := range l.groups {
		g := &l.groups[i]
		up := g.up &^ g.lost
		if popcount(up) < l.g.K {
			continue
		}
		for c := range l.g.Members() {
			if g.nmissed[c] == 0 || up&(1<<c) == 0 {
				continue
			}
			return l.hunt(i, dst, func(row uint32) bool { return hasBit(g.missed[c], row%l.nrows) })
		}
	}
	return dst
}

// Healable reports whether HealVictims would find rows, and whether there is
// a group with all members to move them to.
func (l *Log) Healable() bool {
	whole, need := false, false
	for i := range l.groups {
		g := &l.groups[i]
		up := g.up &^ g.lost
		if popcount(up) == l.g.Members() && g.nfree > 0 {
			whole = true
		}
		for c := range l.g.Members() {
			if g.nmissed[c] != 0 && up&(1<<c) != 0 {
				need = true
			}
		}
	}
	return whole && need
}

// hunt walks the rows of a group once around and takes the live slots of up
// to 32 rows that want accepts.
func (l *Log) hunt(group int, dst []Slot, want func(row uint32) bool) []Slot {
	g := &l.groups[group]
	rows := 0
	i := g.scan
	for range l.nrows {
		if i >= l.nrows {
			i = 0
		}
		row := l.row(GroupID(group), Index(i))
		i++
		if l.live[row] == 0 || !want(row) {
			continue
		}
		if !l.CanDecode(l.Survivors(GroupID(group), Index(i-1)), l.FilledCols(GroupID(group), Index(i-1))) {
			continue
		}
		first := Slot(row) * Slot(l.g.K)
		for c := range l.g.K {
			if l.isLive(first + Slot(c)) {
				dst = append(dst, first+Slot(c))
			}
		}
		if rows++; rows == MaxBatchPages {
			break
		}
	}
	g.scan = i
	return dst
}

// Content is what a live slot holds.
type Content struct {
	Page PageNo
	Note NoteID
	Kind HeaderKind // KindPage or KindNotes
}

// Content tells what lives in slot s; false when nothing does any more.
func (l *Log) Content(s Slot) (Content, bool) {
	if l.live[uint32(s)/uint32(l.g.K)] == 0 || !l.isLive(s) {
		return Content{}, false
	}
	if b := l.rev[s]; b.isNote() {
		return Content{Note: b.note(), Kind: KindNotes}, true
	}
	return Content{Page: PageNo(l.rev[s]), Kind: KindPage}, true
}
