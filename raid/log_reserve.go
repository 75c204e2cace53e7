package raid

import "math/bits"

// Placement is where a batch goes: up to 32 rows of one group. Page i of the
// batch goes to column i / Rows and row i % Rows, so that consecutive pages
// lie on the same member, down its rows, and are read back in one transfer.
type Placement struct {
	Group   GroupID
	Seq     Seq
	Members uint32 // the members to write; the others of the group are down or lost
	Named   uint32 // those of Members that the headers name: a recovery takes it that each of them has an answered row
	Second  uint32 // columns whose pending member is written too
	Settled Seq    // what the headers say of the batches before
	Pages   int    // pages of the batch
	N       int    // places that are filled: pages, and copies of them (CopyOf)
	Rows    int    // ceil(N / K)
	Index   [MaxBatchPages]Index
}

// CopyOf is the page of the batch that lies in place i: i itself, or, in the places
// from Pages on, the page in column 0 of the same row. A row that does not fill its
// columns has such copies when too few members would know of it otherwise.
func (p *Placement) CopyOf(i int) int {
	if i < p.Pages {
		return i
	}
	return i % p.Rows
}

// At is the place of page i of the batch.
func (p *Placement) At(i int) (Col, Index) { return Col(i / p.Rows), p.Index[i%p.Rows] }

// Column gives the range [from, to) of the batch's places that column c holds.
// The first of them is in row 0, the next in row 1, and so on.
func (p *Placement) Column(c Col) (from, to int) {
	return min(int(c)*p.Rows, p.N), min((int(c)+1)*p.Rows, p.N)
}

// FilledCols is the mask of data columns that row r of the batch fills.
func (p *Placement) FilledCols(r int) uint16 {
	// Columns are filled in order, and all but the last one used completely.
	full := p.N / p.Rows
	if r < p.N%p.Rows {
		full++
	}
	return uint16(1)<<full - 1
}

// MaxPages is the most pages that one Reserve can place.
func (l *Log) MaxPages() int { return MaxBatchPages * l.g.K }

// Reserve takes free rows for a batch of n pages, 1..MaxPages, and gives the
// batch its Seq. It prefers groups with all members up, takes turns among
// them, and falls back to the group with the most members up; there, at least
// the minimum of members are. It may place fewer pages than asked (p.Pages): then
// the group had no more rows. It reports false when no row can be had: clean,
// or wait for members to come back.
//
// Only moves may take the last rows: the cleaner needs some to gain more. And until
// Begin there are only moves.
func (l *Log) Reserve(n int, move bool, p *Placement) bool {
	keep := l.reserve
	if move {
		keep = 0
	}
	return l.reserveRows(n, move, keep, p)
}

// ReserveNote is Reserve for a single page, of notes, where Reserve gives nothing
// although the cleaner is at rest. Rows in which pages are lost are free again when those
// are trimmed, and only then: so the note may have some of the cleaner's rows, but not the last one.
func (l *Log) ReserveNote(p *Placement) bool {
	return l.reserveRows(1, false, (l.reserve+1)/2, p)
}

// reserveRows is Reserve, so that keep rows stay free.
func (l *Log) reserveRows(n int, move bool, keep uint64, p *Placement) bool {
	best, rows := l.pick(n, move, keep)
	if best < 0 {
		return false
	}
	l.hand = best + 1
	if l.hand == len(l.groups) {
		l.hand = 0
	}
	g := &l.groups[best]
	p.Group = GroupID(best)
	p.Members = g.in()
	p.Named = p.Members & g.view.members &^ g.doubt
	p.Second = g.second()
	p.Pages = min(n, rows*l.g.K)
	p.Rows = (p.Pages + l.g.K - 1) / l.g.K
	p.N = max(p.Pages, p.Rows*l.columns(p))
	p.Settled = l.settled(g)
	p.Seq = l.NextSeq()
	g.window.push(p.Seq)
	g.placed = p.Seq
	l.take(g, p)
	return true
}

// pick chooses the group for a batch of n pages, and tells how many rows of it the
// batch may have, so that keep rows stay free. The group is -1 when there are none.
func (l *Log) pick(n int, move bool, keep uint64) (group, rows int) {
	if l.free <= keep || l.Exhausted() {
		return -1, 0
	}
	want := uint32(min(uint64(MaxBatchPages), uint64((n+l.g.K-1)/l.g.K), l.free-keep))
	best, bestUp, bestFree := -1, 0, uint32(0)
	for k := range l.groups {
		i := l.hand + k
		if i >= len(l.groups) {
			i -= len(l.groups)
		}
		g := &l.groups[i]
		if g.nfree == 0 || !l.writable(g) || !l.mayPlace(g, move) {
			continue
		}
		// Columns in doubt are written, but not named: rather elsewhere.
		up := bits.OnesCount32(g.in()) + bits.OnesCount32(g.in()&^g.doubt)
		have := min(g.nfree, want)
		if up > bestUp || (up == bestUp && have > bestFree) {
			best, bestUp, bestFree = i, up, have
		}
		if up == 2*l.g.Members() && have == want {
			break
		}
	}
	return best, int(bestFree)
}

// MoveRoom is how many of n pages Reserve would place as moves, and whether these take
// the last free row. Such moves must make at least as many rows free as they take: where
// they do not, no row is left for any other move, and the cleaner is at its end for good,
// however many slots are dead.
func (l *Log) MoveRoom(n int) (pages int, last bool) {
	group, rows := l.pick(n, true, 0)
	if group < 0 {
		return 0, false
	}
	pages = min(n, rows*l.g.K)
	return pages, l.opened && uint64(pages+l.g.K-1)/uint64(l.g.K) == l.free
}

// LiveIn is how many live slots the row of slot s has.
func (l *Log) LiveIn(s Slot) int { return int(l.live[uint32(s)/uint32(l.g.K)]) }

// columns is how many data columns every row of p has to fill, so that the members
// that the headers name and that are sent something are more than M: those know
// of the row. (Parity members are always sent something.) It is K where there are
// not that many members: then see GuardThin.
func (l *Log) columns(p *Placement) int {
	parity := l.all() &^ (1<<l.g.K - 1)
	n := p.Pages / p.Rows
	for n < l.g.K && popcount(p.Named&(parity|(1<<n-1))) <= l.g.M {
		n++
	}
	return n
}

// Room reports whether a move could be placed now: victims that cannot are not worth
// reading.
func (l *Log) Room() bool {
	for i := range l.groups {
		if g := &l.groups[i]; g.nfree > 0 && l.writable(g) && l.mayPlace(g, true) {
			return true
		}
	}
	return false
}

// take moves p.Rows rows from free to reserved: the longer runs ahead of the
// group's hand (takeRuns), the rest next fit from the hand. After a run of frees
// in order the rows are in order too. The group has enough.
func (l *Log) take(g *logGroup, p *Placement) {
	n := 0
	if g.nfree >= l.nrows/runShare {
		n = g.takeRuns(p)
	}
	w := int(g.hand)
	for n < p.Rows {
		if n = g.takeWord(w, 0, n, p); n < p.Rows {
			w = g.next(w)
		}
	}
	g.hand = uint32(w)
	g.nfree -= uint32(p.Rows)
	l.free -= uint64(p.Rows)
	for _, i := range p.Index[:p.Rows] {
		l.tag[l.rowOf(g, uint32(i))] = 0 // nothing that lies there is of this row (Keeps)
	}
}

// Abandon gives up a placement whose write failed: its rows are free again when
// they are erased. Call it only when every request of the write has completed and the session
// with each member whose outcome is unknown has ended (I10): then nothing can
// land in them later.
func (l *Log) Abandon(p *Placement) {
	g := &l.groups[p.Group]
	g.window.end(p.Seq, batchVoid)
	for _, i := range p.Index[:p.Rows] {
		l.giveUp(g, i)
	}
}

// release makes a row that is dead free, or one that has to be erased before.
func (l *Log) release(g *logGroup, i Index) {
	if l.mustErase(g, i) {
		l.doom(g, i)
		return
	}
	l.makeFree(g, i)
}

// makeFree makes a row free.
func (l *Log) makeFree(g *logGroup, i Index) {
	setBit(g.free, uint32(i))
	g.nfree++
	if l.writable(g) {
		l.free++
	}
}

// unfree takes a row out of those that are free.
func (l *Log) unfree(g *logGroup, i Index) {
	clearBit(g.free, uint32(i))
	g.nfree--
	if l.writable(g) {
		l.free--
	}
}

// writable reports whether rows of g can be written at all.
func (l *Log) writable(g *logGroup) bool {
	in := g.in()
	return bits.OnesCount32(in) >= l.MinAck() && bits.OnesCount32(in&^g.doubt) >= l.g.K && l.durable(g, in&^g.doubt)
}

// bury puts a row whose last live slot died into limbo. While rows are in use that may not
// last it is held there.
func (l *Log) bury(row uint32) {
	l.used--
	if l.holding {
		l.held, l.sweepDue = append(l.held, row), true
		return
	}
	l.await(row)
}

// await has a row that is dead wait for read epochs.
func (l *Log) await(row uint32) {
	q := &l.limbo[0]
	l.rev[row*uint32(l.g.K)] = back(q.head)
	q.head = row + 1
	q.n++
}

// sweep lets go of what is held and does not have to be any more.
func (l *Log) sweep() {
	kept := l.held[:0]
	for _, row := range l.held {
		if l.replaced(row) {
			l.await(row)
		} else {
			kept = append(kept, row)
		}
	}
	l.held, l.sweepDue = kept, false
}

// replaced reports whether every page of a dead row is in a row that lasts, or in a note in
// one, by what the slots of the row say. Such a row was answered, or a later recovery finds it
// too. Of notes that were in the dead row it is not looked at.
func (l *Log) replaced(row uint32) bool {
	for _, b := range l.rev[row*uint32(l.g.K):][:l.g.K] {
		switch {
		case b == backUnfilled:
		case b.isNote() || !l.lasts(l.fwd[b]):
			return false
		}
	}
	return true
}

// lasts reports whether what the map says of a page is in a row that lasts.
func (l *Log) lasts(e entry) bool {
	s := noSlot
	switch {
	case e.stored():
		s = e.slot()
	case e.filled():
		s = l.notes[e.note()].slot
	}
	if s == noSlot {
		return false
	}
	row := uint32(s) / uint32(l.g.K)
	g, i := &l.groups[row/l.nrows], Index(row%l.nrows)
	return !hasBit(g.unsure, uint32(i)) && !l.spared[row] && l.CanDecode(l.Survivors(g.id, i), l.FilledCols(g.id, i))
}

// letGo has what is held wait for read epochs, as what dies from now on.
func (l *Log) letGo() {
	for _, row := range l.held {
		l.await(row)
	}
	l.held, l.holding, l.sweepDue = nil, false, false
}

// Limbo reports whether rows wait for Advance.
func (l *Log) Limbo() bool { return l.limbo[0].n+l.limbo[1].n != 0 || l.sweepDue }

// Advance ends a read epoch: rows that died in the epoch before the current
// one are free, those of the current one wait for the next Advance. Call it
// when every read that was looked up before the previous Advance has ended. Until
// Begin, what a recovery took in may not last. So only rows are freed whose pages were
// moved since, and only when moves find no room.
func (l *Log) Advance() {
	if !l.opened {
		if !l.holding {
			return
		}
		if l.sweepDue && !l.Room() {
			l.sweep()
		}
	}
	l.advance()
}

func (l *Log) advance() {
	q := &l.limbo[1]
	for q.head != 0 {
		row := q.head - 1
		q.head = uint32(l.rev[row*uint32(l.g.K)])
		l.release(&l.groups[row/l.nrows], Index(row%l.nrows))
	}
	l.limbo[1] = l.limbo[0]
	l.limbo[0] = limboList{}
}
