package raid

// ItemKind says what a page of a batch is.
type ItemKind uint8

const (
	// ItemPage is a new version of a page.
	ItemPage ItemKind = iota
	// ItemMove is a page that the cleaner moves. It counts only while the map
	// still points at From.
	//
	// When its batch is reserved the map must point at From and no other write
	// or note of the page may be in flight: its Seq could be lower, and the
	// move, although older, would win in a recovery. From when its victim is
	// picked until Commit a move counts as a read for Advance: else From could
	// be reused for a newer version of the same page.
	ItemMove
	// ItemNotes is a note page. Its records are committed with CommitFill.
	ItemNotes
	// ItemCopy is a copy of another page of its row (Placement.CopyOf). It is dead.
	ItemCopy
)

// Item is one page of a batch.
type Item struct {
	Kind ItemKind
	Page PageNo
	From Slot   // ItemMove
	Note NoteID // ItemNotes
}

// Commit makes a written batch the truth: items[i] was written to the place
// p.At(i), by all members in wrote, among them all of p.Named: a recovery takes
// it that a row without one of those was never answered. It panics otherwise:
// the caller must not have answered that (I1). Before, the driver takes those
// columns out of p.Second whose pending member was not written after all, or is
// not the one that was meant; see also Unvouched.
func (l *Log) Commit(p *Placement, items []Item, wrote uint32) {
	if len(items) != p.N {
		panic("raid: commit of another number of pages than was placed")
	}
	if n := popcount(wrote); n < l.MinAck() || wrote&p.Named != p.Named {
		panic("raid: commit of a row that too few members have")
	}
	if l.Unvouched(p, p.Second) != 0 {
		panic("raid: commit of a row without a member that was vouched for")
	}
	if !l.MayCommit(p) || l.columns(p)*p.Rows > p.N {
		panic("raid: commit of a row that too few members know of")
	}
	g := &l.groups[p.Group]
	g.window.end(p.Seq, batchSettled)
	g.settle()
	for r := range p.Rows {
		row := l.row(p.Group, p.Index[r])
		l.tag[row] = TagOf(p.Seq)
		first := Slot(row) * Slot(l.g.K)
		for c := range l.g.K {
			l.rev[first+Slot(c)] = backUnfilled
		}
		// What was not sent because it is not filled is not missed either.
		unfilled := (uint32(1)<<l.g.K - 1) &^ uint32(p.FilledCols(r))
		l.setMissed(g, uint32(p.Index[r]), wrote|unfilled)
		g.setPending(uint32(p.Index[r]), p.Second|unfilled)
		l.written(g, p.Index[r], p.Named, wrote&^unfilled)
		g.writtenPending(p.Index[r], p.Second&^unfilled)
		// While its items are committed the row counts one slot too many, so
		// that it cannot die half-way.
		l.live[row] = 1
		g.hist[1]++
		g.used++
		l.used++
	}
	for i := range items {
		col, idx := p.At(i)
		row := l.row(p.Group, idx)
		s := Slot(row)*Slot(l.g.K) + Slot(col)
		switch it := &items[i]; it.Kind {
		case ItemPage:
			l.rev[s] = back(it.Page)
			l.enliven(row)
			l.point(it.Page, storedEntry(s))
		case ItemMove:
			l.rev[s] = back(it.Page)
			if l.fwd[it.Page] == storedEntry(it.From) {
				l.enliven(row)
				l.point(it.Page, storedEntry(s))
			}
		case ItemCopy:
			l.rev[s] = backDead
		case ItemNotes:
			l.rev[s] = backNote | back(it.Note)
			l.notes[it.Note].slot = s
			l.enliven(row)
		}
	}
	for r := range p.Rows {
		l.kill(Slot(l.row(p.Group, p.Index[r])) * Slot(l.g.K))
	}
}

// written notes what it will take to erase row i, which the headers say was
// sent to members, and which sent have.
func (l *Log) written(g *logGroup, i Index, members, sent uint32) {
	if members != l.all() {
		setBit(g.partial, uint32(i))
	}
	for c := range l.g.Members() {
		if g.nstale[c] != 0 && sent&(1<<c) != 0 {
			l.setStale(g, Col(c), i, false)
		}
	}
}

// setMissed remembers which members do not have a row that is now in use.
func (l *Log) setMissed(g *logGroup, i, wrote uint32) {
	l.miss(g, i, (uint32(1)<<l.g.Members()-1)&^wrote)
}

// point makes e the truth for page p and lets the old one go.
func (l *Log) point(p PageNo, e entry) {
	old := l.fwd[p]
	l.fwd[p] = e
	switch {
	case e.stored():
		l.mapped++
	case e.filled():
		l.filled++
		l.notes[e.note()].live++
	}
	switch {
	case old.stored():
		l.mapped--
		l.kill(old.slot())
	case old.filled():
		l.filled--
		l.dropNote(old.note())
	}
}

func (l *Log) enliven(row uint32) {
	g := &l.groups[row/l.nrows]
	n := l.live[row]
	g.hist[n]--
	l.live[row] = n + 1
	if int(n)+1 <= l.g.K {
		g.hist[n+1]++
		return
	}
	// K live slots and the one that Commit counts too many: no bucket.
	g.hist[n]++
}

// kill takes one live slot from the row of s; the last one frees it.
func (l *Log) kill(s Slot) {
	row := uint32(s) / uint32(l.g.K)
	g := &l.groups[row/l.nrows]
	n := l.live[row]
	if n == 0 {
		panic("raid: slot died twice")
	}
	l.live[row] = n - 1
	if int(n) > l.g.K {
		return // was counted in bucket K
	}
	g.hist[n]--
	if n > 1 {
		g.hist[n-1]++
		return
	}
	g.used--
	l.unsureDied(g, Index(row%l.nrows))
	l.notePartial(g, Index(row%l.nrows))
	l.setMissed(g, row%l.nrows, ^uint32(0))
	g.setPending(row%l.nrows, ^uint32(0))
	l.bury(row)
}

// NewNote takes an entry of the note table, or reports false when it is full:
// then store the pages, or clean. The note is in use until FreeNote, or until
// the last page that CommitFill gave it is overwritten. Only moves may take the
// last entries: the cleaner needs some to gain more.
func (l *Log) NewNote(move bool) (NoteID, bool) {
	if l.noteFree == 0 || !move && l.notesUse >= l.noteMax-noteReserve {
		return 0, false
	}
	n := l.noteFree - 1
	// One live page too many, until SealNote.
	l.noteFree = l.notes[n].next
	l.notes[n] = noteState{live: 1, open: true, slot: noSlot}
	l.notesUse++
	return n, true
}

// FreeNote gives back a note that was never committed.
func (l *Log) FreeNote(n NoteID) {
	l.notes[n] = noteState{next: l.noteFree}
	l.noteFree = n + 1
	l.notesUse--
}

// CommitFill makes the pages [start, start+count) same-filled with v, as note
// n says, whose page was committed before. It reports how many changed.
func (l *Log) CommitFill(n NoteID, start PageNo, count uint64, v byte) {
	for p := start; p < start+PageNo(count); p++ {
		l.point(p, filledEntry(n, v))
	}
}

// MoveFill is CommitFill for records that the cleaner takes over from the older note in
// slot from: only pages that still belong to that note move. The note is known by its slot,
// which nothing else takes while somebody moves what was there. Its id may be another
// note's by now, whose records have a higher number.
func (l *Log) MoveFill(from Slot, n NoteID, start PageNo, count uint64, v byte) {
	old, live := l.Content(from)
	if !live || old.Kind != KindNotes {
		return
	}
	for p := start; p < start+PageNo(count); p++ {
		if l.fwd[p] == filledEntry(old.Note, v) {
			l.point(p, filledEntry(n, v))
		}
	}
}

// NoteRun finds the first run of pages in [start, start+count) that still
// belong to note n; count 0 means none.
func (l *Log) NoteRun(n NoteID, v byte, start PageNo, count uint64) (PageNo, uint64) {
	end := start + PageNo(count)
	for start < end && l.fwd[start] != filledEntry(n, v) {
		start++
	}
	run := uint64(0)
	for start+PageNo(run) < end && l.fwd[start+PageNo(run)] == filledEntry(n, v) {
		run++
	}
	return start, run
}

// SealNote ends the commit of note n. When none of its records is current any
// more its slot dies at once.
func (l *Log) SealNote(n NoteID) {
	l.notes[n].open = false
	l.dropNote(n)
}

// noSlot is the slot of a note that was not committed yet.
const noSlot Slot = 1<<32 - 1

func (l *Log) dropNote(n NoteID) {
	s := &l.notes[n]
	s.live--
	if s.live != 0 {
		return
	}
	slot := s.slot
	l.FreeNote(n)
	l.kill(slot)
}
