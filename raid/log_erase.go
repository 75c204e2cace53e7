package raid

import "math/bits"

// Rows that are dead keep their headers in the servers' memory until they are
// written anew. Mostly that is of no concern, and erasing costs nothing:
//
//   - A row that was sent to all K+M members, and of which a recovery sees a
//     header, is either contradicted by a member that can be read and does not
//     have it, and dropped; or all who lack it are out, at most M, and K others
//     name and decode all of it. So it is never a reason not to open. It does
//     not matter who lost it since, or was replaced by an empty chunk: that one
//     contradicts too.
//   - What it names is answered otherwise: the newer version that killed it,
//     stored or noted, has a higher Seq and outlives whatever M members can
//     take along. When that newer version is degraded it outlives less; but then
//     the volume says so until it is healed (Health).
//
// Three kinds of dead rows are different, and are erased before they are free:
//
//   - Partial rows: their headers name fewer than all members, since some were
//     out when they were written, whether or not these were given them later.
//     Who is not named contradicts nothing. When those members are back and M
//     others are gone, more than M lack the row: a recovery cannot name its
//     pages, and does not know that it is dead. Rows of which a slot was
//     damaged are the same: damage does not contradict either.
//   - Placements that were given up (Abandon). Somebody lacks them, who may be
//     out; a recovery that takes them in kills what they were to replace, and
//     that may have been answered last.
//   - Rows that a recovery dropped since they were never answered. Somebody has
//     read older versions of their pages since. Without the members that
//     contradicted, the next recovery would bring the row back.
//
// They go
//
//	Advance, Abandon or Recovery.Row -> doomed
//	doomed -> Doomed -> all members that are up are sent empty headers -> Erased -> free
//
// Who is out meanwhile keeps the header: stale. When that member is up again
// the row is doomed once more, at once if it is free, else when it dies.
// Pending members are treated alike, since they will be members; none is vouched
// for while it may hold such a header of a dead row.

// Erasure is a set of rows of one group whose headers are to be erased: an
// empty header (KindEmpty, all zeros) is written to each of them at every member
// in Members and every pending member in Second. The rows belong to the caller
// until Erased.
type Erasure struct {
	Group   GroupID
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
		if g.ndoomed == 0 || up == 0 {
			continue
		}
		e.Group, e.Members, e.Second, e.Rows, e.moved = GroupID(i), up, g.second(), 0, g.moved
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

// Erased ends an erasure that the members in done and the pending members in
// second have: those rows are free, unless a member that is up is not among
// them, since it failed and is back, or was not up before. The condition of Abandon holds here too: nothing may be
// able to land later.
func (l *Log) Erased(e *Erasure, done, second uint32) {
	g := &l.groups[e.Group]
	g.erasing -= uint32(e.Rows)
	l.erasing -= uint64(e.Rows)
	if e.moved != g.moved {
		done, second = 0, 0 // of one column it was another chunk that was erased: once more
	}
	for _, i := range e.Index[:e.Rows] {
		again := false
		for c := range l.g.Members() {
			switch bit := uint32(1) << c; {
			case (done|g.lost)&bit != 0:
				l.setStale(g, Col(c), i, false)
			case g.up&bit != 0:
				again = true
			default:
				l.setStale(g, Col(c), i, true)
			}
		}
		for _, p := range g.pending {
			erased := second&(1<<p.col) != 0
			p.setStale(i, !erased)
			again = again || !erased && p.up
		}
		if again {
			l.doom(g, i)
		} else {
			g.waves.settled(i)
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
// headers: it is another, empty chunk, or its leftovers will be erased (Keeps)
// before it is. Say so before that begins: of a row that is passed over, since
// it is in use, and dies meanwhile, it keeps the header.
func (l *Log) ForgetStale(g GroupID, c Col) {
	gr := &l.groups[g]
	clear(gr.stale[c])
	gr.nstale[c] = 0
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

// Keeps reports whether h, the header of member c's slot of row i in group g,
// must stay: it belongs to a row in use that the map says c holds. Everything
// else that is not empty is a leftover: of a dead row, of one that was never
// answered, or of one from before a row that c missed. Before a member is used
// whose headers no recovery saw, its leftovers are erased (ForgetStale): what
// matters cannot be told from what does not.
//
// sound is false when the header was damaged. In a row in use such a one stays
// until the row is filled or moved: an empty header would tell a recovery that
// the row was never answered.
func (l *Log) Keeps(g GroupID, i Index, c Col, h Header, sound bool) bool {
	if l.live[l.row(g, i)] == 0 {
		return false
	}
	if !sound {
		return true
	}
	if l.Holders(g, i)&(1<<c) == 0 {
		return false
	}
	if int(c) < l.g.K && l.FilledCols(g, i)&(1<<c) == 0 {
		return false
	}
	return h.Kind != KindEmpty && TagOf(h.Seq) == l.tag[l.row(g, i)]
}
