package client

import (
	"errors"
	"fmt"
	"math/bits"

	"dmps/raid"
	"dmps/transport"
)

func popcount(m uint32) int { return bits.OnesCount32(m) }

// peerUp takes a new session into use.
func (v *Volume) peerUp(p *peer, c transport.Conn) {
	p.mu.Lock()
	p.mu.conn = c
	p.mu.heard = nanotime()
	p.mu.Unlock()
	a := v.lock()
	was := p.state
	p.state, p.since, p.answers = peerUp, nanotime(), true
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
	if v.mu.closed == nil && v.run.Err() == nil { // else the volume is ended, and the server well
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

// peerUnreachable notes a failed attempt to connect, and when it began. Whatever
// the error says, what the server holds may still be there.
func (v *Volume) peerUnreachable(p *peer, began int64) {
	a := v.lock()
	p.tried = began
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
		v.acceptNoMoreLocked(fmt.Errorf("%w: %w", ErrFenced, cause))
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
	for m.queue.n > 0 || m.trims.n > 0 || m.stalled != nil || m.rescues.head != nil || m.mergers != nil ||
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
	q := v.mu.rescues.head
	v.mu.rescues = rescueList{}
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
	if v.mu.rescues.head != nil {
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
		if bufs, ok := v.merges.tryGet(1, a.scratch[:0]); ok {
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
