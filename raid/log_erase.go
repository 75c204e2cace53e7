package raid

import "math/bits"

// Rows that are dead keep their headers in the servers' memory until they are
// written anew. Mostly that is of no concern, and erasing costs nothing: what such
// a row names is answered otherwise, since the newer version that killed it, stored
// or noted, has a higher Seq, and more than M members know of it.
//
// Two kinds of dead rows are different, and are erased before they are free:
//
//   - Void rows: placements that were given up (Abandon), and rows that a recovery
//     dropped because they were never answered. A recovery that took one in would
//     undo what was answered or read since. Of a void row nothing may remain at
//     any member of the group's view.
//   - Partial rows: their headers name fewer than all members, since some were
//     out when they were written, whether or not these were given them later; or
//     a slot of them was damaged. When those who were out are back and M others
//     are gone, a recovery may not be able to name the row's pages, and does not
//     know that it is dead: it would refuse to open.
//
// They go
//
//	Advance, Abandon or Recovery.Row -> doomed
//	doomed -> Doomed -> all members that are up are sent headers of KindErased -> Erased -> free
//
// Who is out meanwhile keeps the header: stale. When that member is up again
// the row is doomed once more, at once if it is free, else when it dies. A member
// that may keep a void row leaves the view first (TakeView), and is back in it
// when it was erased there.
// Pending members are treated alike, since they will be members; none is vouched
// for while it may hold such a header of a dead row.

// Erasure is a set of rows of one group whose headers are to be erased: a
// header of KindErased with Seq (PutErased) is written to each of them at every member
// in Members and every pending member in Second. The rows belong to the caller
// until Erased.
type Erasure struct {
	Group   GroupID
	Seq     Seq // what these rows held up to here is dead
	Members uint32
	Second  uint32 // columns whose pending members get it too
	Rows    int
	Index   [MaxBatchPages]Index

	moved uint32 // logGroup.moved when the rows were taken
}

// Doomed counts the rows that wait to be erased or are being erased, those of
// groups included that nobody can reach.
func (l *Log) Doomed() uint64 { return l.doomed + l.erasing }

// TakeDoomed takes rows to be erased, of one group, into e. It reports false
// when there are none in groups that have a member up.
func (l *Log) TakeDoomed(e *Erasure) bool {
	if l.doomed == 0 {
		return false
	}
	for k := range l.groups {
		i := (int(e.Group) + 1 + k) % len(l.groups) // take turns
		g := &l.groups[i]
		up := g.up &^ g.lost
		if g.ndoomed == 0 || up == 0 || l.voidsWait(g) && !l.cleans(g) {
			continue
		}
		// Whatever is placed there later is numbered above.
		e.Group, e.Seq, e.Members, e.Second, e.Rows, e.moved = GroupID(i), l.seq, up, g.second(), 0, g.moved
		for w := 0; w < len(g.doomed) && e.Rows < MaxBatchPages; w++ {
			for g.doomed[w] != 0 && e.Rows < MaxBatchPages {
				b := bits.TrailingZeros64(g.doomed[w])
				g.doomed[w] &^= 1 << b
				e.Index[e.Rows] = Index(w*64 + b)
				e.Rows++
			}
		}
		g.ndoomed -= uint32(e.Rows)
		l.doomed -= uint64(e.Rows)
		g.erasing += uint32(e.Rows)
		l.erasing += uint64(e.Rows)
		return true
	}
	return false
}

// voidsWait reports whether the void rows of g wait for a view without those who are
// out, or may be.
func (l *Log) voidsWait(g *logGroup) bool {
	return g.nvoid > 0 && l.opened && g.view.members&^(g.up&^g.lost&^g.doubt) != 0
}

// cleans reports whether to erase what is doomed in g lets a member into its view, which
// may be what that view waits for: they are too few without.
func (l *Log) cleans(g *logGroup) bool {
	if l.g.K <= l.g.M && !l.guarded {
		return false // nobody would keep one that misses rows from being all of the view
	}
	for m := g.up &^ g.lost &^ g.view.members &^ g.doubt; m != 0; m &= m - 1 {
		for w, stale := range g.stale[bits.TrailingZeros32(m)] {
			if stale&g.doomed[w] != 0 {
				return true
			}
		}
	}
	return false
}

// Erased ends an erasure that the members in done and the pending members in
// second have: those rows are free, unless a member that is up is not among
// them, since it failed and is back, or was not up before. The condition of Abandon holds here too: nothing may be
// able to land later.
func (l *Log) Erased(e *Erasure, done, second uint32) {
	g := &l.groups[e.Group]
	l.viewDue = true // somebody may be clean now
	g.erasing -= uint32(e.Rows)
	l.erasing -= uint64(e.Rows)
	if e.moved != g.moved {
		done, second = 0, 0 // of one column it was another chunk that was erased: once more
	}
	in := g.view.members &^ g.lost
	failed := g.up&^g.lost&^done != 0 // some failed and are back: those who were erased stay stale until they are too
	for _, i := range e.Index[:e.Rows] {
		again := l.opened && hasBit(g.void, uint32(i)) && in&^done != 0
		for c := range l.g.Members() {
			switch bit := uint32(1) << c; {
			case (done|g.lost)&bit != 0:
				l.setStale(g, Col(c), i, failed && hasBit(g.stale[c], uint32(i)))
			case g.up&bit != 0:
				again = true
			default:
				l.setStale(g, Col(c), i, true)
			}
		}
		for _, p := range g.pending {
			erased := second&(1<<p.col) != 0
			p.setStale(i, !erased)
			again = again || !erased && (p.up || l.opened && p.vouched && in&(1<<p.col) != 0 && hasBit(g.void, uint32(i)))
		}
		if again {
			l.doom(g, i)
		} else {
			l.erasedVoid(g, i)
			l.makeFree(g, i)
		}
	}
}

// writtenPending notes that the pending members in sent have row i anew.
func (g *logGroup) writtenPending(i Index, sent uint32) {
	for _, p := range g.pending {
		if sent&(1<<p.col) != 0 {
			p.setStale(i, false)
		}
	}
}

// setStale is Log.setStale for a pending member.
func (p *logPending) setStale(i Index, stale bool) {
	switch had := hasBit(p.stale, uint32(i)); {
	case stale && !had:
		setBit(p.stale, uint32(i))
		p.nstale++
	case !stale && had:
		clearBit(p.stale, uint32(i))
		p.nstale--
	}
}

// doom makes a row that is in no other state one that waits to be erased.
func (l *Log) doom(g *logGroup, i Index) {
	clearBit(g.partial, uint32(i))
	setBit(g.doomed, uint32(i))
	g.ndoomed++
	l.doomed++
}

// doomFree makes a free row one that waits to be erased.
func (l *Log) doomFree(g *logGroup, i Index) {
	l.unfree(g, i)
	l.doom(g, i)
}

// setStale remembers whether member c may hold a header in row i that was, or
// should have been, erased at the others.
func (l *Log) setStale(g *logGroup, c Col, i Index, stale bool) {
	switch had := hasBit(g.stale[c], uint32(i)); {
	case stale && !had:
		setBit(g.stale[c], uint32(i))
		g.nstale[c]++
	case !stale && had:
		clearBit(g.stale[c], uint32(i))
		g.nstale[c]--
		l.viewDue = true
	}
}

// mustErase reports whether the headers of row i, which is dead, matter.
func (l *Log) mustErase(g *logGroup, i Index) bool {
	if hasBit(g.partial, uint32(i)) {
		return true
	}
	for c := range l.g.Members() {
		if g.nstale[c] != 0 && (g.up&^g.lost)&(1<<c) != 0 && hasBit(g.stale[c], uint32(i)) {
			return true
		}
	}
	for _, p := range g.pending {
		if p.nstale != 0 && p.up && hasBit(p.stale, uint32(i)) {
			return true
		}
	}
	return false
}

// doomStale dooms the free rows that member c, which is up again, holds old
// headers of.
func (l *Log) doomStale(g *logGroup, c Col) {
	if g.nstale[c] != 0 {
		l.doomFrees(g, g.stale[c])
	}
}

// doomFrees dooms the free ones of rows.
func (l *Log) doomFrees(g *logGroup, rows []uint64) {
	for w := range rows {
		for m := rows[w] & g.free[w]; m != 0; m &= m - 1 {
			l.doomFree(g, Index(w*64+bits.TrailingZeros64(m)))
		}
	}
}

// ForgetStale says that member c of group g, which is not up, holds no old
// headers: it is another, empty chunk, or its leftovers will be erased (Leftover)
// before it is. Say so before that begins: of a row that is passed over, since
// it is in use, and dies meanwhile, it keeps the header.
func (l *Log) ForgetStale(g GroupID, c Col) {
	gr := &l.groups[g]
	clear(gr.stale[c])
	gr.nstale[c] = 0
	l.viewDue = true
}

// ForgetPendingStale is ForgetStale for the pending member of column c.
func (l *Log) ForgetPendingStale(g GroupID, c Col) {
	p := l.groups[g].mustPending(c)
	clear(p.stale)
	p.nstale = 0
}

// notePartial remembers when row i, which is about to die, has a member that does
// not have it.
func (l *Log) notePartial(g *logGroup, i Index) {
	for c := range l.g.Members() {
		if g.nmissed[c] != 0 && hasBit(g.missed[c], uint32(i)) {
			setBit(g.partial, uint32(i))
			return
		}
	}
}

// all is the mask of all members of a group.
func (l *Log) all() uint32 { return uint32(1)<<l.g.Members() - 1 }

// Leftover decides about h, which member c holds in row i of group g, or its pending
// member, and which no recovery saw. It reports whether h is to be erased before that
// member is used, and up to which number the erased slot says that all is dead that was
// there: what matters cannot be told from what does not. sound is false when the header
// was damaged, or lost (KindEmpty). A pending member counts as empty: all of it is erased.
//
// What belongs to a row that the recovery has not seen, above what was settled then, nobody
// else knows to be given up, nor what was erased there. So it is erased at the others too, when
// that member is up and what lies there is dead (stale): they contradict whoever shows it again.
// Until then the member, which did, is out of the view. What lies there may be dead only when the
// log has begun. And what the recovery gave up without that member is erased there too (torn).
func (l *Log) Leftover(g GroupID, i Index, c Col, h Header, sound, pending bool) (dead Seq, erase bool) {
	erased, torn := sound && h.Kind == KindErased, hasBit(l.groups[g].torn, uint32(i))
	erase = !l.keeps(g, i, c, h, sound) || pending && !erased || torn && erased && h.Seq < l.deadUpTo(g, i)
	if sound && !erased && (!erase || !h.Holds()) {
		return 0, false
	}
	if gr := &l.groups[g]; sound && h.Seq > gr.toldBy(c) && l.recovered {
		if pending {
			gr.mustPending(c).setStale(i, true)
		} else {
			l.setStale(gr, c, i, true)
			l.setMask(g, func(gr *logGroup) { gr.leaveView(c) })
		}
	} else if sound && erase && !erased && !torn {
		return min(gr.mark, l.deadUpTo(g, i)), true
	}
	return l.deadUpTo(g, i), erase
}

// toldBy is the number up to which whatever member c may hold that was given up is erased
// at others: of the view that the recovery found, or since that was made.
func (g *logGroup) toldBy(c Col) Seq {
	if g.outside&(1<<c) != 0 {
		return g.trust
	}
	return g.mark
}

// keeps reports whether h, the header of member c's slot of row i in group g,
// must stay: it belongs to a row in use. Everything else that is not empty is a leftover:
// of a dead row, of one that was never answered, or of one from before a row that c missed.
//
// It stays also when the map does not know that c has it, as when c was given the
// row later, so that the header does not name it: nobody has noted that c lacks the
// row, and the next client may reach nobody else who has it.
//
// Until Begin a row stays also when it has died, since what replaced it may have
// never been answered, and be dropped by the next client.
//
// In a row in use a damaged header stays until the row is filled or moved: an empty header
// would tell a recovery that the row was never answered.
//
// An erased slot stays unless it may say of a row that counts that it is dead: a client that
// was replaced may have given up what this one took in.
func (l *Log) keeps(g GroupID, i Index, c Col, h Header, sound bool) bool {
	gr := &l.groups[g]
	if sound && h.Kind == KindErased {
		return h.Seq == 0 || hasBit(gr.free, uint32(i)) || hasBit(gr.doomed, uint32(i))
	}
	if l.live[l.row(g, i)] == 0 && (l.opened || hasBit(gr.free, uint32(i)) || hasBit(gr.doomed, uint32(i))) {
		return false
	}
	return !sound || l.isOf(h, g, i)
}

// deadUpTo is the number up to which all is dead that a slot of row i in group g may
// hold which is not kept: for the header that is written over it outside of an
// Erasure. It is 0 unless the row is free, or waits to be erased: what is on its way to
// other members may be the next one to be in use.
func (l *Log) deadUpTo(g GroupID, i Index) Seq {
	if gr := &l.groups[g]; !hasBit(gr.free, uint32(i)) && !hasBit(gr.doomed, uint32(i)) {
		return 0
	}
	return l.seq
}
