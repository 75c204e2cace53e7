package client

import (
	"bytes"
	"fmt"
	"math/bits"
	"time"

	"dmps/raid"
)

// A source of a rescue may be sound by itself, with a tag that fits, and still not
// be of the row. Then the page that is made matches no table, or the headers
// contradict each other. Who is wrong is a guess, and no reason to say that the
// member misses the row: a unit has the odd ones left out, and when that does not
// help it tries every set of sources that is just enough, one after another.

// contradictionEvery is how often the log tells of one, at most.
const contradictionEvery = 10 * time.Second

// shelf is what a rescue has learnt of the sources of a unit.
type shelf struct {
	odd  uint32 // said something else than most of the others
	set  uint32 // of just enough members, that was tried last; 0: none
	done bool   // no set is left
}

// sourcesOf is the mask of members, of those in up, from which u is to be made.
// False: every set was tried.
func (v *Volume) sourcesOf(u *unit, up uint32, filled uint16) (uint32, bool) {
	s := &u.shelf
	switch {
	case s.odd == 0 || v.geo.Mirror():
		return up, true
	case s.set == 0 && v.mu.log.CanDecode(up&^s.odd, filled):
		return up &^ s.odd, true
	case s.done:
		return 0, false
	case s.set == 0:
		s.set = up + 1 // the first one is up itself
	}
	return v.nextSet(u, up, filled)
}

// nextSet is the set of members in up after the one that u tried last, in falling
// order, without which no more can be left out.
func (v *Volume) nextSet(u *unit, up uint32, filled uint16) (uint32, bool) {
	zeros := (uint32(1)<<v.geo.K - 1) &^ uint32(filled)
	for set := (u.shelf.set - 1) & up; set != 0; set = (set - 1) & up {
		if popcount(set|zeros) == v.geo.K {
			u.shelf.set = set
			return set, true
		}
	}
	u.shelf.done = true
	return 0, false
}

// exhaustedLocked ends a unit of which every set of sources was tried, or lets it
// wait for members that are away and may know better.
func (v *Volume) exhaustedLocked(u *unit, a *after) {
	have := v.mu.log.Holders(u.grp, u.idx) &^ u.avoid
	for m := have &^ v.mu.log.Survivors(u.grp, u.idx); m != 0; m &= m - 1 {
		if p := v.member(u.grp, raid.Col(bits.TrailingZeros32(m))).peer; p != nil && p.state != peerGone {
			v.stallLocked(u, a)
			return
		}
	}
	v.mu.count.lostPageIns++
	v.failUnitLocked(u, fmt.Errorf("page %d: its members contradict each other, whichever are asked: %w", u.page, ErrLost), a)
}

// contradictedLocked notes who is odd among the sources that were asked for u. The
// tries count only what may go on for ever: sets of sources do not.
func (v *Volume) contradictedLocked(u *unit, odd uint32) {
	if u.shelf.odd == 0 {
		v.mu.count.contradictions++
	}
	if now := nanotime(); u.shelf.odd == 0 && now >= v.mu.contradictionTold {
		v.mu.contradictionTold = now + int64(contradictionEvery)
		v.log.Warn("members that a page is made from contradict each other: others are asked",
			"page", u.page, "group", u.grp, "slot", u.idx, "columns", fmt.Sprintf("%b", odd))
	}
	u.shelf.odd |= odd
}

// contradictions are the sources in set whose headers do not belong to one row
// with the others: those that differ from most, or, where that is even, all that
// differ from any. 0: all agree.
func (q *rescue) contradictions(g raid.Geometry, set uint32) uint32 {
	best, most := raid.Col(0), -1
	var torn uint32
	for m := set; m != 0; m &= m - 1 {
		c := raid.Col(bits.TrailingZeros32(m))
		same := q.agreeing(g, set, c)
		if same != set {
			torn |= 1 << c
		}
		if n := popcount(same); n > most {
			best, most = c, n
		}
	}
	if odd := set &^ q.agreeing(g, set, best); odd != 0 && 2*popcount(odd) < popcount(set) {
		return odd
	}
	return torn
}

// agreeing is the mask of sources in set that say the same as c, which is one.
func (q *rescue) agreeing(g raid.Geometry, set uint32, c raid.Col) (same uint32) {
	x := &q.heads[c]
	for m := set; m != 0; m &= m - 1 {
		o := raid.Col(bits.TrailingZeros32(m))
		y := &q.heads[o]
		if x.SameRow(y) && q.sameTable(g, c, o) {
			same |= 1 << o
		}
	}
	return same
}

// sameTable reports whether what two sources say of the row's pages is the same.
func (q *rescue) sameTable(g raid.Geometry, a, b raid.Col) bool {
	k := raid.Col(g.K)
	if a >= k && b >= k {
		return bytes.Equal(q.raw[a][raid.HeaderSize:], q.raw[b][raid.HeaderSize:])
	}
	if a < k && b < k {
		return true // they say nothing of each other
	}
	if a < k {
		a, b = b, a
	}
	h := &q.heads[b]
	return raid.ParseRowEntry(q.raw[a], int(b)) == raid.RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}
}
