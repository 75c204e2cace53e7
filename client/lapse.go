package client

import (
	"context"
	"fmt"
	"time"

	"dmps/raid"
)

// A lease that could not be renewed is over after its time, and another client may
// have the volume: on the far side of a network that is cut in two, for as long as
// that lasts. Every server that it reaches refuses this client from then on, and it
// needs K members of each group. So while K members of a page's group answer this
// client, and K > M, nobody has replaced it, and what it reads is true; paging goes on
// without the metadata service. With fewer the page waits, for the lease or for
// members, and ends with an error after the patience. A page that lies nowhere needs
// any one group of which K members answer.
const (
	lapseTick  = 500 * time.Millisecond
	lapseProbe = time.Second     // a member that was not heard for so long is asked for a header
	lapseHeard = 3 * time.Second // who was heard within that answers
	lapseTell  = time.Minute     // how often the log says so
)

// lapse is what is known of the lease. Guarded by Volume.mu.
type lapse struct {
	renewed int64 // when the last renewal that succeeded was sent, nanoseconds; 0: there is no lease to renew
	over    bool
	some    bool  // K members of some group answer
	told    int64 // when the log said so last, nanoseconds
}

// leaseRenewed takes it in that the lease was renewed by what was sent at a time.
func (v *Volume) leaseRenewed(sent int64) {
	v.mu.Lock()
	l := &v.mu.lapse
	over := l.over
	if l.renewed != 0 {
		l.renewed, l.over = sent, false
	}
	v.mu.Unlock()
	if over {
		v.log.Info("the lease is renewed: it was over")
		v.idle()
	}
}

// expiredLocked is how long ago the lease was over; 0: it is not.
func (v *Volume) expiredLocked() time.Duration {
	l := &v.mu.lapse
	if l.renewed == 0 {
		return 0
	}
	return max(time.Duration(nanotime()-l.renewed)-v.cfg.Lease.TTL, 0)
}

// enoughAnswerLocked reports whether K members of g answer.
func (v *Volume) enoughAnswerLocked(g raid.GroupID) bool {
	n := 0
	for c := range raid.Col(v.geo.Members()) {
		if p := v.member(g, c).peer; p != nil && p.state == peerUp && p.answers {
			n++
		}
	}
	return n >= v.geo.K
}

// mayReadLocked reports whether what the map says of a page is sure to be true.
func (v *Volume) mayReadLocked(p raid.PageNo) bool {
	if !v.mu.lapse.over {
		return true
	}
	if e := v.mu.log.Lookup(p); e.Kind == raid.Stored {
		return v.enoughAnswerLocked(v.mu.log.Place(e.Slot).Group)
	}
	return v.mu.lapse.some
}

// unsureLocked parks a unit until its page may be read.
func (v *Volume) unsureLocked(u *unit) {
	u.unsure = true
	u.next = v.mu.stalled
	v.mu.stalled = u
}

// expireUnsureLocked looks at a unit that unsureLocked has parked.
func (v *Volume) expireUnsureLocked(r *router, u *unit) {
	err := v.endedLocked()
	switch {
	case err != nil:
	case v.mayReadLocked(u.page):
		v.unparkLocked(r, u)
		return
	case !v.overdueLocked(u.since):
		v.unsureLocked(u)
		return
	default:
		err = fmt.Errorf("page %d: the lease expired %v ago and fewer than %d members answer: another client may have written it",
			u.page, v.expiredLocked().Round(time.Second), v.geo.K)
	}
	v.failUnitLocked(u, err, r.a)
}

// watchLease finds out when the lease is over, and who answers from then on.
func (v *Volume) watchLease(ctx context.Context) {
	tick := time.NewTicker(lapseTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v.lookAtLease(ctx)
	}
}

func (v *Volume) lookAtLease(ctx context.Context) {
	a := v.lock()
	l, now := &v.mu.lapse, nanotime()
	// Members are asked a little earlier, so that the answers are there in time.
	if now-l.renewed < int64(v.cfg.Lease.TTL-2*lapseTick) {
		v.unlock(a)
		return
	}
	var quiet []*peer
	for _, p := range v.allPeers() {
		p.mu.Lock()
		silent := now - p.mu.heard
		p.mu.Unlock()
		p.answers = silent < int64(lapseHeard)
		if p.state == peerUp && silent > int64(lapseProbe-lapseTick) {
			quiet = append(quiet, p)
		}
	}
	l.some = false
	for g := range v.layout.Groups {
		if l.some = v.enoughAnswerLocked(raid.GroupID(g)); l.some {
			break
		}
	}
	l.over = v.expiredLocked() > 0
	if l.over && now-l.told > int64(lapseTell) {
		l.told = now
		v.log.Warn("the lease expired: groups are read as long as K of their members answer",
			"ago", v.expiredLocked().Round(time.Second))
	}
	for _, p := range quiet {
		v.echoLocked(ctx, p)
	}
	v.unlock(a)
	v.kickAll()
}

// echoLocked asks a server for one header. What comes back is of no interest.
func (v *Volume) echoLocked(ctx context.Context, p *peer) {
	var m *memberRef
	conn := p.conn()
	for _, o := range p.members {
		if o.conn == conn && conn != nil {
			m = o
		}
	}
	if m == nil || v.mu.closed != nil {
		return
	}
	bufs, ok := v.probes.tryGet(1, nil)
	if !ok {
		return // the next tick comes soon
	}
	x := v.xfers.get()
	x.wait = make(chan error, 1)
	x.req.Op, x.req.Chunk, x.req.Count = opReadHeaders, uint64(m.chunk), 1
	x.add(0, bufs[0].hdr[:v.layout.HeaderBytes(m.col)], nil)
	v.mu.ops++ // the watch looks after it
	p.send(x)
	v.wg.Go(func() {
		err := v.outcome(ctx, x)
		v.xfers.put(x)
		a := v.lock()
		a.free = append(a.free, bufs...)
		p.answers = p.answers || err == nil
		v.opGoneLocked()
		v.unlock(a)
	})
}
