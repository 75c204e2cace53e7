package client

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"dmps/raid"
	"dmps/transport"
)

func popcount(m uint32) int { return bits.OnesCount32(m) }

// refusedFor is how long a server's address must refuse connections before
// its process, and so its memory, is taken for gone. Long enough for a
// firewall's or a restart's hiccup, short against any request's patience.
const refusedFor = int64(time.Second)

// peerUp takes a new session into use.
func (v *Volume) peerUp(p *peer, c transport.Conn) {
	p.mu.Lock()
	p.mu.conn = c
	p.mu.heard = nanotime()
	p.mu.Unlock()
	a := v.lock()
	was := p.state
	p.state, p.since, p.refused = peerUp, nanotime(), 0
	v.setUpLocked(p, true)
	for _, m := range p.members {
		if m.conn != c {
			v.wg.Go(func() { p.openLate(v.run, m) })
		}
	}
	v.healthChangedLocked()
	v.restartStalledLocked(a)
	v.unlock(a)
	if was == peerSuspect {
		v.log.Info("server answers again", "server", p.id)
	}
	v.idle()
}

// setUpLocked tells the translator about all members on p.
func (v *Volume) setUpLocked(p *peer, up bool) {
	if v.mu.log == nil {
		return
	}
	for _, m := range p.members {
		// A member that came after the session was made is opened by openLate.
		v.setSeatUpLocked(m, up && m.conn == p.conn())
	}
}

// peerDown marks p suspect if c is still its session: from now on nothing is
// placed there, and reads go elsewhere.
func (v *Volume) peerDown(p *peer, c transport.Conn, cause error) {
	p.drop(c, cause)
	a := v.lock()
	v.peerDownLocked(p, cause)
	v.unlock(a)
}

// peerDownLocked does nothing when p has another session by now: what failed
// belonged to the one before.
func (v *Volume) peerDownLocked(p *peer, cause error) {
	if p.state != peerUp || p.conn() != nil {
		return
	}
	p.state, p.since = peerSuspect, nanotime()
	v.setUpLocked(p, false)
	if p.parted {
		return // it was let go
	}
	v.healthChangedLocked()
	v.askSoonLocked(p)
	v.mu.count.sessionsLost++
	if v.mu.closed == nil {
		v.log.Warn("server is suspect: its rows are served by the others", "server", p.id, "cause", cause)
	}
}

// peerLost marks what p held as gone.
func (v *Volume) peerLost(p *peer, cause error) {
	a := v.lock()
	v.peerDownLocked(p, cause)
	p.state, p.since = peerGone, nanotime()
	if v.mu.log != nil {
		for _, m := range p.members {
			if m.pending {
				v.lagLocked(m.group, m.col, m)
				continue // the layout will not have it for long
			}
			v.mu.log.SetLost(m.group, m.col)
		}
	}
	v.healthChangedLocked()
	v.askSoonLocked(p)
	v.restartStalledLocked(a)
	v.unlock(a)
	v.log.Error("server lost what it held: it was restarted", "server", p.id, "cause", cause)
	v.idle()
}

// peerUnreachable notes a failed attempt to connect.
func (v *Volume) peerUnreachable(p *peer, err error) {
	a := v.lock()
	switch {
	case !refusedBy(err):
		p.refused = 0
	case p.refused == 0:
		p.refused = nanotime()
	}
	if p.state == peerConnecting {
		p.state, p.since = peerSuspect, nanotime()
		v.healthChangedLocked()
	}
	v.unlock(a)
}

// transferFailed draws the conclusions from a transfer's error, before what it
// was part of is placed or routed anew.
func (v *Volume) transferFailed(x *xfer) {
	err := x.req.Err
	switch {
	case errors.Is(err, transport.ErrStaleEpoch):
		v.fence(err)
	case errors.Is(err, transport.ErrChecksum):
		// The bytes changed on their way; the session is sound.
	case x.conn == nil:
		// There was no session to begin with. Whoever ended it may not have come to
		// say so yet, and what failed would be sent there again and again.
		a := v.lock()
		v.peerDownLocked(x.peer, err)
		v.unlock(a)
	case errors.Is(err, transport.ErrClosed):
		v.peerDown(x.peer, x.conn, err)
	default:
		// The server refuses what the layout says it holds: it is no member
		// to rely on, and the outcome of what else is under way is unknown.
		v.peerDown(x.peer, x.conn, fmt.Errorf("server %s refused a transfer: %w", x.peer.id, err))
	}
}

// fence ends the volume for writing and reading: another client has it.
func (v *Volume) fence(cause error) {
	a := v.lock()
	first := !errors.Is(v.mu.closed, ErrFenced) // also while the volume is being closed
	if first {
		v.mu.closed = fmt.Errorf("%w: %w", ErrFenced, cause)
		v.failWaitingLocked(v.mu.closed, a)
	}
	v.unlock(a)
	if first {
		v.log.Error("fenced: another client has taken the volume", "cause", cause)
		v.flushHooks()
	}
}

// endedLocked is why nothing is tried again: the volume was fenced, or its
// sessions were ended for good. Nil while there is a point in trying.
func (v *Volume) endedLocked() error {
	switch {
	case v.mu.over != nil:
		return v.mu.over
	case errors.Is(v.mu.closed, ErrFenced):
		return v.mu.closed
	}
	return nil
}

// stallLocked parks a unit that too few members are up for, or fails it when
// no return of a member could help.
func (v *Volume) stallLocked(u *unit, a *after) {
	if err := v.endedLocked(); err != nil {
		v.failUnitLocked(u, err, a)
		return
	}
	now := nanotime()
	if u.since == 0 {
		u.since = now
	}
	if v.goneLocked(u, now) {
		v.mu.count.lost++
		v.failUnitLocked(u, fmt.Errorf("page %d: %w", u.page, ErrLost), a)
		return
	}
	u.next = v.mu.stalled
	v.mu.stalled = u
}

// goneLocked reports whether u's page cannot come back: its own member and too many
// others of its row are lost, or nobody listens where they were.
func (v *Volume) goneLocked(u *unit, now int64) bool {
	gone := func(c raid.Col) bool {
		p := v.member(u.grp, c).peer
		return p == nil || p.state == peerGone || (p.refused != 0 && now-p.refused > refusedFor)
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

// restartStalledLocked routes every parked unit again.
func (v *Volume) restartStalledLocked(a *after) {
	u := v.mu.stalled
	v.mu.stalled = nil
	r := router{v: v, a: a}
	for u != nil {
		next := u.next
		u.next = nil
		r.route(u)
		u = next
	}
	r.flush()
}

// expireStalledLocked fails what has waited for longer than the patience, and
// what has turned out to be gone.
func (v *Volume) expireStalledLocked(now int64, a *after) {
	u := v.mu.stalled
	v.mu.stalled = nil
	for u != nil {
		next := u.next
		u.next = nil
		if now-u.since > int64(v.cfg.Patience) {
			v.mu.count.lost++
			v.failUnitLocked(u, fmt.Errorf("page %d: its members did not come back within %v: %w", u.page, v.cfg.Patience, ErrLost), a)
		} else {
			v.stallLocked(u, a)
		}
		u = next
	}
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

// failAll ends the work for good: everything that is not in a transfer is
// answered with err, and so is from now on what would have to be tried again.
func (v *Volume) failAll(err error) {
	a := v.lock()
	v.mu.ready = false
	v.mu.over = err
	v.failWaitingLocked(err, a)
	v.unlock(a) // hands cleanings whose page-ins have failed to cleanRead
	a = v.lock()
	for c := v.mu.cleanRead; c != nil; c = v.mu.cleanRead {
		v.mu.cleanRead = c.next
		c.next = nil
		v.endCleanLocked(c, a)
	}
	v.unlock(a)
}

// failWaitingLocked answers everything that is not in a transfer with err. What
// fails lets go what waited for it: the next version of a page, a write that a
// trim held. So it goes round until nothing waits.
func (v *Volume) failWaitingLocked(err error, a *after) {
	m := &v.mu
	for m.queue.n > 0 || m.trims.n > 0 || m.stalled != nil || m.rescues != nil || m.mergers != nil ||
		m.blocked.n > 0 || m.held.n > 0 || m.heldEdges.n > 0 {
		for g := range m.groupQ {
			v.failGroupLocked(raid.GroupID(g), err, a)
		}
		v.failQueueLocked(err, a)
		v.failStalledLocked(err, a)
		v.failHeldLocked(err, a)
		v.failRescuesLocked(err, a)
		for u := m.mergers; u != nil; u = m.mergers {
			m.mergers = u.next
			u.next = nil
			v.failUnitLocked(u, err, a)
		}
	}
}

// failRescuesLocked answers the units of rescues that wait for buffers.
func (v *Volume) failRescuesLocked(err error, a *after) {
	q := v.mu.rescues
	v.mu.rescues = nil
	for q != nil {
		next := q.next
		for i, u := range q.units[:q.n] {
			q.units[i] = nil
			u.refs--
			v.failUnitLocked(u, err, a)
		}
		v.freeRescueLocked(q)
		q = next
	}
}

// retryMergersLocked starts fetching old content that had no buffer before.
func (v *Volume) retryMergersLocked(a *after) {
	if v.mu.rescues != nil {
		v.retryRescuesLocked(a)
	}
	u := v.mu.mergers
	if u == nil {
		return
	}
	v.mu.mergers = nil
	r := router{v: v, a: a}
	for u != nil {
		next := u.next
		u.next = nil
		if bufs, ok := v.scratch.tryGet(1, a.scratch[:0]); ok {
			u.buf = bufs[0]
			r.route(u)
		} else {
			u.next = v.mu.mergers
			v.mu.mergers = u
		}
		u = next
	}
	r.flush()
}
