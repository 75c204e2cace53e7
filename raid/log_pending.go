package raid

import (
	"fmt"
	"math/bits"
	"slices"
)

// A pending member will take the place of a column's living one (Pending in
// the layout). It is filled while the other still counts, in three steps:
//
//	AddPending   it is an empty chunk and misses every row in use. From the
//	             first SetPendingUp on new batches are written to it as well
//	             (Placement.Second). Where that fails the batch counts all the
//	             same, and the pending member misses its rows.
//	Vouch        it misses nothing, and the driver is about to say so. From now
//	             on meta may make it the member at any time, and this client may
//	             be gone before it hears of that. A recovery would then take
//	             what the new member lacks for what was never answered, so
//	             nothing is answered any more that it lacks and whose headers
//	             name its column (Placement.Named).
//	Promote      meta has made it the member. What it misses the column misses.
//
// DropPending ends it: the move was given up.

// logPending is a pending member as the log sees it.
type logPending struct {
	col     Col
	up      bool
	vouched bool
	viewed  bool     // it holds the record of the group's view
	missed  []uint64 // bitmap of rows in use that it does not have
	nmissed uint32   // bits set in missed
	stale   []uint64 // bitmap of rows that it may hold an old header of that matters (log_erase.go)
	nstale  uint32   // bits set in stale
}

// pendingAt finds a column's pending member; nil: it has none.
func (g *logGroup) pendingAt(c Col) *logPending {
	for _, p := range g.pending {
		if p.col == c {
			return p
		}
	}
	return nil
}

func (g *logGroup) mustPending(c Col) *logPending {
	p := g.pendingAt(c)
	if p == nil {
		panic(fmt.Sprintf("raid: column %d has no pending member", c))
	}
	return p
}

func (p *logPending) miss(i uint32) {
	if !hasBit(p.missed, i) {
		setBit(p.missed, i)
		p.nmissed++
	}
}

func (p *logPending) have(i uint32) {
	if hasBit(p.missed, i) {
		clearBit(p.missed, i)
		p.nmissed--
	}
}

// AddPending gives column c of group g a pending member, an empty chunk that is
// down. A column has at most one.
func (l *Log) AddPending(g GroupID, c Col) {
	gr := &l.groups[g]
	if gr.pendingAt(c) != nil {
		panic(fmt.Sprintf("raid: column %d has a pending member already", c))
	}
	p := &logPending{col: c, missed: make([]uint64, len(gr.free)), stale: make([]uint64, len(gr.free))}
	for i := range l.nrows {
		if l.live[l.row(g, Index(i))] > 0 {
			p.miss(i)
		}
	}
	gr.pending = append(gr.pending, p)
}

// SetPendingUp says whether the pending member of column c can be written.
func (l *Log) SetPendingUp(g GroupID, c Col, up bool) {
	l.setMask(g, func(gr *logGroup) {
		gr.mustPending(c).up = up
		gr.doubtPending()
	})
	if gr := &l.groups[g]; up {
		l.doomFrees(gr, gr.mustPending(c).stale)
	}
}

// doubtPending counts anew which columns may or may not be a vouched pending
// member's that cannot be written.
func (g *logGroup) doubtPending() {
	g.doubt = 0
	for _, p := range g.pending {
		if p.vouched && !p.up {
			g.doubt |= 1 << p.col
		}
	}
}

// MayVouch reports whether the pending member of column c is up, misses
// nothing, holds no old headers of dead rows that matter, and could fail without
// leaving the group too few columns that headers can name: at most M of a group,
// or the only one, are vouched for at a time. The driver must also look at its batches in flight: one that the
// pending member is not a part of will make it miss rows.
func (l *Log) MayVouch(g GroupID, c Col) bool {
	gr := &l.groups[g]
	p := gr.pendingAt(c)
	if p == nil || !p.up || !p.viewed || p.nmissed != 0 || l.staleDead(gr, p.stale, p.nstale) {
		return false
	}
	others := 0
	for _, o := range gr.pending {
		if o.vouched && o != p {
			others++
		}
	}
	return others < max(l.g.M, 1)
}

// staleDead reports whether a member that may hold old headers of these n rows may
// hold one of a row that is not in use. Where the row is, and has nothing in that
// column, the old header is below the row's, and is erased when that dies; it may
// live for ever.
func (l *Log) staleDead(g *logGroup, rows []uint64, n uint32) bool {
	if n == 0 {
		return false
	}
	for w, m := range rows {
		for ; m != 0; m &= m - 1 {
			if l.live[l.rowOf(g, uint32(w*64+bits.TrailingZeros64(m)))] == 0 {
				return true
			}
		}
	}
	return false
}

// Vouch says that meta is about to be told that the pending member of column c
// has everything, when MayVouch says so. There is no way back.
func (l *Log) Vouch(g GroupID, c Col) {
	if !l.MayVouch(g, c) {
		panic("raid: vouched for a pending member that misses rows")
	}
	l.groups[g].mustPending(c).vouched = true
}

// Vouched reports whether Vouch was called for the pending member of column c.
func (l *Log) Vouched(g GroupID, c Col) bool {
	p := l.groups[g].pendingAt(c)
	return p != nil && p.vouched
}

// Unvouched is the mask of columns whose pending member was vouched for, that
// the headers of a batch name, and whose pending member is not in wrote: the
// batch must not be committed unless it is empty.
func (l *Log) Unvouched(p *Placement, wrote uint32) uint32 {
	m := uint32(0)
	for _, o := range l.groups[p.Group].pending {
		if o.vouched {
			m |= 1 << o.col
		}
	}
	return m & p.Named &^ wrote
}

// Promote makes the pending member of column c the member, with what it misses.
// The one before is gone, and with it what only it had.
func (l *Log) Promote(g GroupID, c Col) {
	l.setMask(g, func(gr *logGroup) {
		p := gr.mustPending(c)
		for i := range l.nrows {
			missed := l.missedBy(gr, i) &^ (1 << c)
			if hasBit(p.missed, i) {
				missed |= 1 << c
			}
			l.miss(gr, i, missed)
		}
		gr.lost &^= 1 << c
		gr.up &^= 1 << c
		if p.up {
			gr.up |= 1 << c
		}
		gr.stale[c], gr.nstale[c] = p.stale, p.nstale
		gr.moved++
		if !p.vouched {
			gr.leaveView(c)
		}
		gr.view.copies &^= 1 << c
		if p.viewed {
			gr.view.copies |= 1 << c & gr.view.members
		}
		gr.removePending(c)
	})
	if gr := &l.groups[g]; gr.up&(1<<c) != 0 {
		l.doomStale(gr, c)
	}
}

// DropPending ends a move that was given up.
func (l *Log) DropPending(g GroupID, c Col) {
	l.setMask(g, func(gr *logGroup) {
		gr.mustPending(c)
		gr.removePending(c)
	})
}

// InDoubt is the mask of columns of group g that batches are written to, but
// that headers do not name: their pending member was vouched for and is down.
func (l *Log) InDoubt(g GroupID) uint32 { return l.groups[g].doubt }

func (g *logGroup) removePending(c Col) {
	g.pending = slices.DeleteFunc(g.pending, func(p *logPending) bool { return p.col == c })
	g.doubtPending()
}

// second is the mask of columns whose pending member is up.
func (g *logGroup) second() uint32 {
	m := uint32(0)
	for _, p := range g.pending {
		if p.up {
			m |= 1 << p.col
		}
	}
	return m
}

// UpPending is the mask of columns of group g whose pending member can be
// written.
func (l *Log) UpPending(g GroupID) uint32 { return l.groups[g].second() }

// setPending remembers which pending members have a row that is now in use.
func (g *logGroup) setPending(i, wrote uint32) {
	for _, p := range g.pending {
		if wrote&(1<<p.col) != 0 {
			p.have(i)
		} else {
			p.miss(i)
		}
	}
}

// PendingMissing counts the rows in use that the pending member of column c
// does not have.
func (l *Log) PendingMissing(g GroupID, c Col) int {
	if p := l.groups[g].pendingAt(c); p != nil {
		return int(p.nmissed)
	}
	return 0
}

// PendingRows is MissingRows for the pending member of column c: the column's
// own member may be one of those that have a row.
func (l *Log) PendingRows(g GroupID, c Col, start Index, dst []MissingRow) ([]MissingRow, Index) {
	p := l.groups[g].mustPending(c)
	i := start
	for ; uint32(i) < l.nrows && len(dst) < cap(dst); i++ {
		if p.nmissed == 0 {
			return dst, Index(l.nrows)
		}
		if !hasBit(p.missed, uint32(i)) {
			continue
		}
		filled := l.FilledCols(g, i)
		if int(c) < l.g.K && filled&(1<<c) == 0 {
			p.have(uint32(i)) // nothing was ever there
			continue
		}
		have := l.Survivors(g, i)
		if have&(1<<c) == 0 && !l.CanDecode(have, filled) {
			continue
		}
		dst = append(dst, MissingRow{Index: i, Tag: l.tag[l.row(g, i)], Filled: filled, Have: have})
	}
	return dst, i
}

// PendingRestored is Restored for the pending member of column c.
func (l *Log) PendingRestored(g GroupID, c Col, r MissingRow) {
	row := l.row(g, r.Index)
	if l.live[row] == 0 || l.tag[row] != r.Tag {
		return
	}
	p := l.groups[g].mustPending(c)
	p.have(uint32(r.Index))
	p.setStale(r.Index, false)
}
