package raid

import "math/bits"

func popcount(m uint32) int { return bits.OnesCount32(m) }

// SetUp says whether member c of group g can be read and written: whether
// there is a session with its server.
func (l *Log) SetUp(g GroupID, c Col, up bool) {
	l.setMask(g, func(gr *logGroup) {
		if up {
			gr.up |= 1 << c
		} else {
			gr.up &^= 1 << c
		}
	})
	if up {
		l.doomStale(&l.groups[g], c)
	}
}

// SetLost says that member c of group g holds nothing any more: its server is
// gone for good or came back empty.
func (l *Log) SetLost(g GroupID, c Col) {
	l.setMask(g, func(gr *logGroup) {
		gr.lost |= 1 << c
		gr.leaveView(c)
	})
}

func (l *Log) setMask(g GroupID, change func(*logGroup)) {
	gr := &l.groups[g]
	before := l.writable(gr)
	change(gr)
	l.viewDue = true
	switch after := l.writable(gr); {
	case before && !after:
		l.free -= uint64(gr.nfree)
	case !before && after:
		l.free += uint64(gr.nfree)
	}
}

// Writable reports whether any group can take rows, full or not.
func (l *Log) Writable() bool {
	for i := range l.groups {
		if l.writable(&l.groups[i]) {
			return true
		}
	}
	return false
}

// Health sums up what the volume can still bear.
type Health struct {
	DegradedGroups int    // groups with a member that is down or lost, or does not belong to their view, with rows that a member misses, with old headers to erase, or with rows that too few members have
	DegradedRows   uint64 // rows in use that a member misses or has lost; down members count as present
	LostPages      uint64 // live data pages and note pages that no set of members that may come back can give
	Unreachable    uint64 // rows in use that cannot be decoded from the members that are up
	RedundancyLeft int    // members that the worst row can still lose, not counting those that are down: -1 when pages are gone
}

// Health looks at the groups and at what their rows miss by sets (missTally).
// It walks rows only in groups where some row has fewer than K members up: what
// is lost there is in the rows.
func (l *Log) Health() Health {
	h := Health{RedundancyLeft: l.g.M}
	all := uint32(1)<<l.g.Members() - 1
	for i := range l.groups {
		g := &l.groups[i]
		if g.in() == all && g.attested() == all && g.tally.rows == 0 && g.ndoomed+g.erasing+g.nunsure == 0 {
			continue
		}
		h.DegradedGroups++
		h.RedundancyLeft = min(h.RedundancyLeft, popcount(g.up&^g.lost)-l.g.K)
		if g.used > 0 && !l.setHealth(g, &h) {
			l.rowHealth(GroupID(i), &h)
		}
	}
	if h.LostPages > 0 {
		h.RedundancyLeft = -1
	}
	h.RedundancyLeft = max(h.RedundancyLeft, -1)
	return h
}

// setHealth adds the rows of a group to h by the sets of members that miss
// them. It reports false, and adds nothing, when that does not tell enough.
func (l *Log) setHealth(g *logGroup, h *Health) bool {
	if g.tally.blind {
		return false
	}
	least := l.g.M
	degraded := g.tally.rows
	if whole := g.used - g.tally.rows; whole > 0 {
		least = min(least, popcount(g.up&^g.lost)-l.g.K)
		if g.lost != 0 {
			degraded += whole
		}
	}
	for _, s := range g.tally.sets[:g.tally.n] {
		least = min(least, popcount(g.up&^g.lost&^s.mask)-l.g.K)
	}
	if least < 0 {
		return false
	}
	h.DegradedRows += uint64(degraded)
	h.RedundancyLeft = min(h.RedundancyLeft, least)
	return true
}

func (l *Log) rowHealth(gid GroupID, h *Health) {
	g := &l.groups[gid]
	all := uint32(1)<<l.g.Members() - 1
	for i := range Index(l.nrows) {
		row := l.row(gid, i)
		if l.live[row] == 0 {
			continue
		}
		holders := l.Holders(gid, i)
		filled := l.FilledCols(gid, i)
		if holders != all {
			h.DegradedRows++
		}
		up := holders & g.up
		h.RedundancyLeft = min(h.RedundancyLeft, popcount(up)-l.g.K)
		if !l.CanDecode(up, filled) {
			h.Unreachable++
		}
		if !l.CanDecode(holders, filled) {
			h.LostPages += uint64(l.lostInRow(row, holders))
		}
	}
}

// lostInRow counts the live slots of a row that cannot be decoded whose own
// member is gone too.
func (l *Log) lostInRow(row uint32, holders uint32) int {
	n := 0
	for c := range l.g.K {
		s := Slot(row)*Slot(l.g.K) + Slot(c)
		if holders&(1<<c) == 0 && l.isLive(s) {
			n++
		}
	}
	return n
}

// isLive reports whether the map or the note table points at s. The row of s
// is in use.
func (l *Log) isLive(s Slot) bool {
	switch b := l.rev[s]; {
	case b == backUnfilled:
		return false
	case b.isNote():
		n := l.notes[b.note()]
		return n.live > 0 && n.slot == s
	default:
		return l.fwd[b] == storedEntry(s)
	}
}

// SetMissed says that member c turned out not to have row i of group g, which
// is in use: its slot was damaged. The row is degraded until HealVictims has
// moved it.
func (l *Log) SetMissed(g GroupID, i Index, c Col) {
	gr := &l.groups[g]
	if l.live[l.row(g, i)] == 0 {
		return
	}
	l.miss(gr, uint32(i), l.missedBy(gr, uint32(i))|1<<c)
}

// Expects reports whether h, the header of member c's slot of row i in group
// g, is what the map says must be there: anything at all when the row is not
// in use, or when the member is known not to have it or was sent nothing.
// sound is false when the header was damaged, or lost (KindEmpty).
func (l *Log) Expects(g GroupID, i Index, c Col, h Header, sound bool) bool {
	if l.live[l.row(g, i)] == 0 || l.Holders(g, i)&(1<<c) == 0 {
		return true
	}
	if int(c) < l.g.K && l.FilledCols(g, i)&(1<<c) == 0 {
		return true
	}
	return sound && l.isOf(h, g, i)
}

// isOf reports whether h is a header of the row that is in use at that place.
func (l *Log) isOf(h Header, g GroupID, i Index) bool {
	return h.Holds() && h.Site == l.Site(g, i) && TagOf(h.Seq) == l.tag[l.row(g, i)]
}
