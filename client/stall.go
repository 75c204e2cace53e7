package client

import (
	"fmt"

	"dmps/raid"
)

// What cannot go on because too few members are up is parked, and goes on when
// that changes. Config.Patience bounds it: the time counts from when the page was
// first looked for, or sent, whatever it was spent on. Nothing fails before every
// server that is away was tried once more, or while a last attempt is under way in
// a session that was just made.

// clock is what patience is measured with: time in which this process did not
// run does not count.
func (v *Volume) clock() int64 { return nanotime() - v.stood.Load() }

// overdueLocked reports whether something that began at since has used up the
// patience.
func (v *Volume) overdueLocked(since int64) bool {
	return v.clock()-since > int64(v.cfg.Patience)
}

// triedSinceLocked reports whether an attempt to reach p began after t and failed.
// An attempt in the middle of long work does not count for ever.
func (v *Volume) triedSinceLocked(p *peer, t int64) bool {
	return p.tried > t || nanotime()-t > int64(v.cfg.DialTimeout+2*redialMost)
}

// allTriedSinceLocked is triedSinceLocked of all servers that are away and may be
// back.
func (v *Volume) allTriedSinceLocked(t int64) bool {
	for _, p := range v.allPeers() {
		if len(p.members) > 0 && p.state != peerUp && p.state != peerGone && !v.triedSinceLocked(p, t) {
			return false
		}
	}
	return true
}

// stallLocked parks a unit that too few members are up for, or fails it when
// no return of a member could help.
func (v *Volume) stallLocked(u *unit, a *after) {
	u.parked = nanotime()
	v.parkLocked(u, a)
}

func (v *Volume) parkLocked(u *unit, a *after) {
	if err := v.endedLocked(); err != nil {
		v.failUnitLocked(u, err, a)
		return
	}
	if v.goneLocked(u) {
		v.mu.count.lostPageIns++
		v.failUnitLocked(u, fmt.Errorf("page %d: %w", u.page, ErrLost), a)
		return
	}
	u.next = v.mu.stalled
	v.mu.stalled = u
}

// goneLocked reports whether u's page cannot come back: its own member and too many
// others of its row are lost. Only the layout says so, or another incarnation that answers
// where a member was: an address that refuses connections is no proof.
func (v *Volume) goneLocked(u *unit) bool {
	gone := func(c raid.Col) bool {
		p := v.member(u.grp, c).peer
		return p == nil || p.state == peerGone
	}
	if v.inplace != nil {
		return gone(0)
	}
	have := v.mu.log.Holders(u.grp, u.idx) &^ u.avoid
	for c := range raid.Col(v.geo.Members()) {
		if have&(1<<c) != 0 && gone(c) {
			have &^= 1 << c
		}
	}
	if have&(1<<v.mu.log.Place(u.slot).Col) != 0 {
		return false // its own member may come back, and needs nobody
	}
	return !v.mu.log.CanDecode(have, v.mu.log.FilledCols(u.grp, u.idx))
}

// readableLocked reports whether u, which is parked, can be read now where it was.
func (v *Volume) readableLocked(u *unit) bool {
	if u.shelf.done {
		return false // it was tried: what is there does not fit together
	}
	if v.inplace != nil {
		p := v.member(u.grp, 0).peer
		return p != nil && p.state == peerUp
	}
	up := v.mu.log.Survivors(u.grp, u.idx) &^ u.avoid
	return up&(1<<v.mu.log.Place(u.slot).Col) != 0 || v.mu.log.CanDecode(up, v.mu.log.FilledCols(u.grp, u.idx))
}

// hopelessLocked reports whether u, which is parked and overdue, has had its last
// attempt: in a session that came after it was parked, or nobody who has its page
// could be reached since.
func (v *Volume) hopelessLocked(u *unit) bool {
	if u.last {
		return true
	}
	holders := uint32(1)
	if v.inplace == nil {
		holders = v.mu.log.Holders(u.grp, u.idx)
	}
	for c := range raid.Col(v.geo.Members()) {
		if holders&(1<<c) == 0 {
			continue
		}
		p := v.member(u.grp, c).peer
		if p != nil && p.state != peerUp && p.state != peerGone && !v.triedSinceLocked(p, u.parked) {
			return false
		}
	}
	return true
}

// unparkLocked routes a parked unit again.
func (v *Volume) unparkLocked(r *router, u *unit) {
	u.next = nil
	u.last = v.overdueLocked(u.since)
	u.unsure = false
	u.shelf = shelf{} // with other members things may look different
	r.route(u)
}

// restartStalledLocked routes every parked unit again.
func (v *Volume) restartStalledLocked(a *after) {
	u := v.mu.stalled
	v.mu.stalled = nil
	r := router{v: v, a: a}
	for u != nil {
		next := u.next
		v.unparkLocked(&r, u)
		u = next
	}
	r.flush()
}

// expireStalledLocked fails what has waited for longer than the patience, and
// what has turned out to be gone. What can be read by now goes on: its row has been
// filled, or its page is elsewhere because it was written anew.
func (v *Volume) expireStalledLocked(a *after) {
	u := v.mu.stalled
	v.mu.stalled = nil
	r := router{v: v, a: a}
	for u != nil {
		next := u.next
		u.next = nil
		switch {
		case u.unsure:
			v.expireUnsureLocked(&r, u)
		case v.inplace == nil && !v.stillThereLocked(u) || v.readableLocked(u):
			v.unparkLocked(&r, u)
		case v.overdueLocked(u.since) && v.hopelessLocked(u):
			v.mu.count.lostPageIns++
			v.failUnitLocked(u, fmt.Errorf("page %d: its members did not come back within %v: %w", u.page, v.cfg.Patience, ErrLost), a)
		default:
			v.parkLocked(u, a)
		}
		u = next
	}
	r.flush()
}

func (v *Volume) failStalledLocked(err error, a *after) {
	u := v.mu.stalled
	v.mu.stalled = nil
	for u != nil {
		next := u.next
		u.next = nil
		v.failUnitLocked(u, err, a)
		u = next
	}
}

// placeAgainLocked queues the pages of a batch that some member does not have, or
// answers those whose patience is over, unless this was their first attempt.
func (v *Volume) placeAgainLocked(b *batch, a *after) {
	if v.mu.starved == 0 {
		v.mu.starved = b.begun
	}
	v.mu.unplaced = nanotime()
	v.unfillLocked(b, 0)
	if b.again {
		v.expireQueueLocked(fmt.Errorf("its members did not take it within %v: %w: %w", v.cfg.Patience, b.err, ErrNoSpace), a)
	}
}

// expireQueueLocked answers with err what has waited to be placed for longer than
// the patience: since it came, or since nothing finds a place any more.
func (v *Volume) expireQueueLocked(err error, a *after) {
	v.expireBufsLocked(&v.mu.queue, v.mu.starved, err, a)
	for op := v.mu.trims.head; op != nil && v.overdueLocked(max(op.st.since, v.mu.starved)); op = v.mu.trims.head {
		v.trimmedLocked(v.mu.trims.pop(), err, a)
	}
	if v.mu.queue.n == 0 && v.mu.trims.n == 0 {
		v.mu.starved = 0
	}
}

func (v *Volume) expireBufsLocked(q *bufQueue, starved int64, err error, a *after) (n int) {
	for b := q.head; b != nil && v.overdueLocked(max(b.op.st.since, starved)); b = q.head {
		v.failPageLocked(q.pop(), err, a)
		n++
	}
	return n
}

// starvedLocked notes that what is queued waits for the cleaner, or for members.
func (v *Volume) starvedLocked() {
	if v.mu.starved == 0 {
		v.mu.starved, v.mu.unplaced = v.clock(), nanotime()
	}
}
