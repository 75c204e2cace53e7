package client

import (
	"context"
	"fmt"
	"time"
)

// How often the watch looks while something is in flight, and after how many
// looks without it rests until the next request.
const (
	watchEvery = 2 * time.Millisecond
	watchIdle  = 50
	// stalledSelf is how late the watch itself may run before its findings
	// are worth nothing: then it is this machine that stalled, not a member.
	stalledSelf = 20 * time.Millisecond
)

// watch looks after transfers that take long: it hedges page-ins, suspects
// members, fails what has waited for too long, and rests while nothing is in
// flight.
func (v *Volume) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := nanotime()
	quiet := 0
	slow := last // until when this machine's own stall excuses everybody
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := nanotime()
		if now-last > int64(watchEvery+stalledSelf) {
			slow = now + int64(v.cfg.SuspectAfter)
		}
		if gap := now - last; gap > int64(v.cfg.HardDeadline)/stoodStill {
			v.excuse(gap, now) // answers may lie in the sockets, unread
		}
		last = now
		if v.look(now, now < slow) {
			quiet = 0
			continue
		}
		if quiet++; quiet < watchIdle {
			continue
		}
		tick.Stop()
		v.resting.Store(true)
		// What was submitted before resting was set is seen now.
		if !v.look(nanotime(), true) {
			select {
			case <-ctx.Done():
				return
			case <-v.wake:
			}
		}
		v.resting.Store(false)
		quiet, last = 0, nanotime()
		tick.Reset(watchEvery)
	}
}

// stoodStill is which part of the hard deadline this process must not have run
// at a stretch for that time to be held against nobody. On a machine that is
// merely busy the deadline still comes.
const stoodStill = 4

// excuse takes time in which this process did not run out of what members are
// judged by.
func (v *Volume) excuse(gap, now int64) {
	a := v.lock()
	defer v.unlock(a)
	v.stood.Add(gap)
	for _, p := range v.allPeers() {
		p.mu.Lock()
		p.mu.heard = min(p.mu.heard+gap, now)
		for x := p.mu.oldest; x != nil; x = x.next {
			x.start = min(x.start+gap, now)
		}
		p.mu.Unlock()
	}
}

// look is one round of the watch. It reports whether anything is in flight or
// waits.
func (v *Volume) look(now int64, excused bool) bool {
	busy := false
	suspects := 0
	a := v.lock()
	for _, p := range v.allPeers() {
		if p.state == peerSuspect {
			suspects++
		}
	}
	hedgeAfter := v.hedgeAfterLocked()
	if !v.mu.ready {
		excused = true // recovering: nobody waits for a page yet
	}
	if v.mu.ops > 0 || v.mu.cleaners > 0 {
		busy = true
	}
	// What waits for buffers, and what never got out, is tried by whoever
	// completes something; but perhaps nothing does any more.
	stuck := v.mu.mergers != nil || v.mu.rescues.head != nil || v.dead.some.Load()
	if v.mu.stalled != nil {
		v.expireStalledLocked(a)
		stuck = true
	}
	if v.inplace != nil {
		if v.expireInPlaceLocked(a) {
			stuck = true
		}
	} else if s := v.mu.starved; s != 0 && v.mu.flying == 0 {
		stuck = true
		if v.overdueLocked(s) && v.allTriedSinceLocked(v.mu.unplaced) {
			v.expireQueueLocked(v.spaceErrorLocked(), a)
		}
	}
	tidy := v.tidyLocked(now)
	v.unlock(a)
	if tidy {
		v.pump()
		v.flushHooks()
		return true
	}
	if !busy {
		return false
	}
	for _, p := range v.allPeers() {
		v.lookAt(p, now, hedgeAfter, excused, &suspects)
	}
	if stuck {
		v.pump()
		v.flushHooks()
	} else {
		v.kickAll()
	}
	return true
}

func (v *Volume) kickAll() {
	for _, p := range v.allPeers() {
		p.kick()
	}
}

// lookAt looks for transfers with p that take too long.
func (v *Volume) lookAt(p *peer, now, hedgeAfter int64, excused bool, suspects *int) {
	var late [8]*run
	n := 0
	p.mu.Lock()
	c := p.mu.conn
	oldest := int64(0)
	if x := p.mu.oldest; x != nil {
		oldest = now - x.start
	}
	silent := now - p.mu.heard
	if v.inplace == nil && v.geo.M > 0 {
		for x := p.mu.oldest; x != nil && now-x.start > hedgeAfter && n < len(late); x = x.next {
			if x.run != nil {
				late[n] = x.run
				n++
			}
		}
	}
	p.mu.Unlock()
	if c == nil || oldest == 0 {
		return
	}
	if late, alone := v.tooLong(p, oldest, silent, now, excused, *suspects); late {
		*suspects++
		if alone {
			a := v.lock()
			v.strikeLocked(p)
			v.unlock(a)
		}
		v.peerDown(p, c, fmt.Errorf("no answer for %v", time.Duration(oldest).Round(time.Millisecond)))
		return
	}
	if n > 0 {
		v.hedge(p, late[:n], now, hedgeAfter)
	}
}

// lostReply is how many hard deadlines a transfer may take with a member that
// answers others meanwhile. After that its reply is not late but lost.
const lostReply = 4

// tooLong decides whether p is suspect. The evidence that it is p that is slow
// and not this machine or the whole network: p has been silent although another
// member answered after p was asked, this process ran on time, and not more
// members are out already than the redundancy can bear. Without that evidence
// only the hard deadline counts. Volumes without redundancy gain nothing by
// suspicion. alone says that there was that evidence.
func (v *Volume) tooLong(p *peer, oldest, silent, now int64, excused bool, suspects int) (late, alone bool) {
	hard := int64(v.cfg.HardDeadline)
	if oldest > hard && (silent > hard || oldest > lostReply*hard) {
		return true, false
	}
	if v.geo.M == 0 || excused || suspects >= v.geo.M {
		return false, false
	}
	limit := int64(v.cfg.SuspectAfter)
	if oldest < limit || silent < limit {
		return false, false
	}
	asked := now - oldest
	for _, o := range v.allPeers() {
		if o == p {
			continue
		}
		o.mu.Lock()
		heard := o.mu.heard
		o.mu.Unlock()
		// Not at once after p was asked: that answer may have been under way.
		if heard > asked+int64(time.Millisecond)/10 {
			return true, true
		}
	}
	return false, false
}
