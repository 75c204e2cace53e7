package raid

// The table of notes has an entry for every 64 pages of the volume (noteLimit).
// A note page holds up to 170 records, but a single trim makes one with a
// single record, and overwriting thins out others. So, when the table is nearly
// full, notes with few pages are merged into one, by moving their records like
// pages of any other victims.
//
// That always gains entries. No page belongs to two notes, and a record that
// counts has a page: at noteLow of the table's limit there are at most 74 pages
// for each note, so that 85 or fewer are in at least one note of eight, and the
// records of any two such notes fit one page.
const (
	// noteReserve is how many entries only the cleaner may take: one for each of
	// the two batches that it may have in flight, and as many again.
	noteReserve = 4
	// noteSparse is the most pages of a note that is merged.
	noteSparse = MaxNotes / 2
)

// noteNeed compares the free entries of the table with the marks: merging
// starts at one eighth.
func (l *Log) noteNeed() CleanNeed {
	free := l.noteMax - l.notesUse
	low := max(2*noteReserve, l.noteMax/8)
	switch {
	case free <= noteReserve:
		return CleanNow
	case free < low:
		return CleanSoon
	case free < low+low/4:
		return CleanBehind
	}
	return CleanNone
}

// noteVictims appends the slots of sparse notes whose records fit one note page
// to dst: at least two, or none.
func (l *Log) noteVictims(dst []Slot) []Slot {
	had, pages := len(dst), uint32(0)
	for range l.notes {
		if l.noteHand >= len(l.notes) {
			l.noteHand = 0
		}
		n := &l.notes[l.noteHand]
		if n.live == 0 || n.live > noteSparse || n.open {
			l.noteHand++
			continue
		}
		if pages+n.live > MaxNotes {
			break // and begin with it the next time
		}
		l.noteHand++
		at := l.Place(n.slot)
		if !l.CanDecode(l.Survivors(at.Group, at.Index), l.FilledCols(at.Group, at.Index)) {
			continue
		}
		if dst = append(dst, n.slot); len(dst)-had == l.MaxPages() {
			break
		}
		pages += n.live
	}
	if len(dst)-had < 2 {
		return dst[:had]
	}
	return dst
}
