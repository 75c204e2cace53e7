package raid

// Cleaning starts when fewer than cleanLow percent of the rows are free and
// stops at cleanHigh. The later rows are cleaned the fewer live pages they
// have, so both are small; what they must cover is the time that a few
// batches of the cleaner take.
const (
	cleanLow  = 2
	cleanHigh = 3
)

// saveKeep is how many percent of the rows stay free for writers when the last
// copies of pages are moved out of rows in which others are lost: such a row
// does not become free by that, only when the lost ones are written anew.
const saveKeep = 10

// CleanNeed says how urgent cleaning is.
type CleanNeed uint8

const (
	CleanNone   CleanNeed = iota
	CleanBehind           // below the high mark: go on if already cleaning
	CleanSoon             // below the low mark: start
	CleanNow              // writers wait for rows
)

// CleanNeed compares the free rows, and the free entries of the table of notes,
// with the marks.
func (l *Log) CleanNeed() CleanNeed { return max(l.rowNeed(), l.noteNeed()) }

func (l *Log) rowNeed() CleanNeed {
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
// whose emptiest 32 rows make the most new ones when they are packed, and of
// several rows that are as empty the next from where the last hunt ended. It
// gives nothing when packing gains no row anywhere: then each group has fewer
// than K dead or unfilled slots in rows that can be read.
//
// When it is the table of notes that is full, it picks sparse notes, unless they would
// take the last row: that does not make a row free (MoveRoom).
func (l *Log) Victims(dst []Slot) []Slot {
	if n := l.noteNeed(); l.free > 1 && (n == CleanNow || n > l.rowNeed()) {
		if got := l.noteVictims(dst); len(got) > len(dst) {
			return got
		}
	}
	best, most := -1, 0
	for i := range l.groups {
		if gain, _ := l.packing(&l.groups[i]); gain > most {
			best, most = i, gain
		}
	}
	if best < 0 {
		return dst
	}
	if got, ok := l.pack(best, dst); ok {
		return got
	}
	// Rows there cannot be decoded. What remains may be better elsewhere.
	for i := range l.groups {
		if got, ok := l.pack(i, dst); ok {
			return got
		}
	}
	return dst
}

// packing tells what is gained by packing the emptiest rows of a group, at
// most 32: how many rows, and up to how many live slots these rows have.
func (l *Log) packing(g *logGroup) (gain, level int) {
	if popcount(g.up&^g.lost) < l.g.K {
		return 0, 0
	}
	rows, slots := 0, 0
	for n := 1; n < l.g.K && rows < MaxBatchPages; n++ {
		if g.hist[n] == 0 {
			continue
		}
		take := int(min(g.hist[n], uint32(MaxBatchPages-rows)))
		rows, slots, level = rows+take, slots+take*n, n
	}
	return rows - (slots+l.g.K-1)/l.g.K, level
}

// pack appends the live slots of the emptiest rows of a group, if that gains a
// row.
func (l *Log) pack(group int, dst []Slot) ([]Slot, bool) {
	gain, level := l.packing(&l.groups[group])
	if gain < 1 {
		return dst, false
	}
	had := len(dst)
	// All that are emptier than the fullest, then of these what fits.
	got, rows := l.hunt(group, dst, MaxBatchPages, func(row uint32) bool { return int(l.live[row]) < level })
	got, more := l.hunt(group, got, MaxBatchPages-rows, func(row uint32) bool { return int(l.live[row]) == level })
	if rows+more-(len(got)-had+l.g.K-1)/l.g.K < 1 {
		return dst, false
	}
	return got, true
}

// HealVictims picks up to 32 rows that a member, or else a pending member,
// misses although it is up, as after a network fault: moved to new rows they
// have their full redundancy again, without a rebuild. Of rows that have lost
// too much to be decoded it takes the pages whose own members still have them:
// these are the last copies. Slots are appended to dst.
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
			got, rows := l.huntPartly(i, dst, MaxBatchPages, true, func(row uint32) bool { return hasBit(g.missed[c], row%l.nrows) })
			if rows > 0 {
				return got // else nothing of them can be read now
			}
		}
	}
	for i := range l.groups {
		g := &l.groups[i]
		if popcount(g.up&^g.lost) < l.g.K {
			continue
		}
		for _, p := range g.pending {
			if p.nmissed == 0 || !p.up {
				continue
			}
			got, rows := l.huntPartly(i, dst, MaxBatchPages, true, func(row uint32) bool { return hasBit(p.missed, row%l.nrows) })
			if rows > 0 {
				return got
			}
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
		if popcount(g.in()) == l.g.Members() && g.nfree > 0 {
			whole = true
		}
		for c := range l.g.Members() {
			if g.nmissed[c] != 0 && up&(1<<c) != 0 {
				need = true
			}
		}
		for _, p := range g.pending {
			need = need || p.nmissed != 0 && p.up
		}
	}
	return whole && need
}

// hunt walks the rows of a group once around and takes the live slots of up
// to most rows that want accepts and that can be read now. It tells how many
// rows these are.
func (l *Log) hunt(group int, dst []Slot, most int, want func(row uint32) bool) ([]Slot, int) {
	return l.huntPartly(group, dst, most, false, want)
}

// huntPartly is hunt that, with partly, also takes what can be read of rows that
// cannot be decoded.
func (l *Log) huntPartly(group int, dst []Slot, most int, partly bool, want func(row uint32) bool) ([]Slot, int) {
	g := &l.groups[group]
	rows := 0
	i := g.scan
	for range l.nrows {
		if rows == most {
			break
		}
		if i >= l.nrows {
			i = 0
		}
		at := Index(i)
		row := l.row(GroupID(group), at)
		i++
		if l.live[row] == 0 || !want(row) {
			continue
		}
		have := l.Survivors(GroupID(group), at)
		whole := l.CanDecode(have, l.FilledCols(GroupID(group), at))
		if !whole && !partly {
			continue
		}
		first, had, lost := Slot(row)*Slot(l.g.K), len(dst), false
		for c := range l.g.K {
			switch {
			case !l.isLive(first + Slot(c)):
			case whole || have&(1<<c) != 0:
				dst = append(dst, first+Slot(c))
			default:
				lost = true
			}
		}
		if lost && l.free <= l.reserve+uint64(len(l.live))*saveKeep/100 {
			dst = dst[:had]
		}
		if len(dst) > had {
			rows++
		}
	}
	g.scan = i
	return dst, rows
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
