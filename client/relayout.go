package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dmps/internal/jitter"
	"dmps/raid"
	"dmps/transport"
)

// When meta has given a lost member another chunk, on another server, the
// layout has a higher version. The client pages to the new member as soon as
// its chunk is open: new rows are whole again. The rows that it misses are
// filled behind (rebuild.go, HealVictims). Members that leave a living server are
// another story: moving.go.

// layoutChanged brings the volume up to a version of the layout that meta has
// announced.
func (v *Volume) layoutChanged(ctx context.Context, version uint64) error {
	v.mu.Lock()
	known := v.mu.version
	v.mu.Unlock()
	if known >= version {
		return nil
	}
	l, err := v.cfg.Meta.Layout(ctx, v.layout.Volume, known)
	if err != nil {
		return fmt.Errorf("fetching version %d of the layout: %w", version, err)
	}
	return v.applyLayout(l)
}

// applyLayout takes over what has changed in the members.
func (v *Volume) applyLayout(l *raid.Layout) error {
	all := len(v.layout.Groups)
	if l.Volume != v.layout.Volume || l.Geometry != v.geo || l.ChunkSlots != v.layout.ChunkSlots || l.Since == 0 && len(l.Groups) != all {
		return fmt.Errorf("version %d of the layout of volume %s is another volume's", l.Version, v.layout.Name)
	}
	if err := l.Validate(); err != nil {
		return fmt.Errorf("version %d of the layout of volume %s: %w", l.Version, v.layout.Name, err)
	}
	if n := len(l.Groups); n > 0 && int(l.Groups[n-1].ID) >= all {
		return fmt.Errorf("version %d of the layout of volume %s has a group %d of %d", l.Version, v.layout.Name, l.Groups[n-1].ID, all)
	}
	if v.inplace != nil {
		return nil // nothing is ever replaced without redundancy
	}
	a := v.lock()
	if v.mu.closed != nil || l.Version <= v.mu.version {
		v.unlock(a)
		return nil
	}
	if known := v.mu.version; l.Since > known {
		v.unlock(a)
		return fmt.Errorf("what changed in the layout of volume %s after version %d does not follow on version %d", v.layout.Name, l.Since, known)
	}
	v.mu.version = l.Version
	if !v.mu.untold {
		v.mu.unknown = min(v.mu.unknown, l.Unknown) // less only when somebody said that it is known by now
	}
	for _, g := range l.Groups {
		for c, m := range g.Members {
			v.changeMemberLocked(g.ID, raid.Col(c), m)
		}
		v.enterMoversLocked(&g)
	}
	v.healthChangedLocked()
	v.restartStalledLocked(a)
	v.unlock(a)
	v.idle()
	return nil
}

// changeMemberLocked makes column c of group g what the layout says.
func (v *Volume) changeMemberLocked(g raid.GroupID, c raid.Col, m raid.Member) {
	cur := v.member(g, c)
	same := cur.peer != nil && cur.chunk == m.Chunk
	switch {
	case m.State == raid.MemberLost:
		if cur.peer != nil {
			v.log.Warn("a member is lost", "group", g, "column", c, "server", cur.peer.id)
		}
		if cur.peer != nil || cur.gone != 0 {
			v.leaveLayoutLocked(g, c)
		}
	case same:
		cur.ref.rebuilding = m.State == raid.MemberRebuilding
		v.notedLocked(g, c)
		v.askSoonLocked(cur.peer) // it may now be one of few that can be relied on
	case cur.gone == m.Chunk:
		// It is lost, whatever the layout says.
		cur.told = m.State == raid.MemberRebuilding
		v.notedLocked(g, c)
	case v.mover(g, c).peer != nil && v.mover(g, c).chunk == m.Chunk:
		v.promoteLocked(g, c, m.State == raid.MemberRebuilding)
	default:
		v.leaveLayoutLocked(g, c)
		v.mu.log.Replace(g, c)
		p, ref := v.joinLocked(g, c, m)
		// It is empty, and every row in use counts as missed.
		ref.rebuilding, ref.compared = true, true
		v.log.Info("a member is replaced", "group", g, "column", c, "server", m.Server)
		v.startLocked(p, ref)
	}
}

// leaveLayoutLocked takes the member of column c out: what it held is gone.
// Batches that are on their way to it are placed again. Its server may well live,
// and then gets the memory back.
func (v *Volume) leaveLayoutLocked(g raid.GroupID, c raid.Col) {
	cur := *v.member(g, c)
	v.loseLocked(g, c)
	p := cur.peer
	if p == nil {
		return
	}
	p.members = slices.DeleteFunc(p.members, func(m *memberRef) bool { return m == cur.ref })
	if len(p.members) == 0 {
		v.partLocked(p)
		return
	}
	v.departLocked(cur)
}

// loseLocked makes column c of group g a lost one.
func (v *Volume) loseLocked(g raid.GroupID, c raid.Col) {
	if v.inplace != nil { // its session is over: what was in flight fails
		*v.member(g, c) = member{}
		return
	}
	v.mu.log.SetLost(g, c)
	for _, b := range v.batches {
		if b.left == 0 || b.p.Group != g {
			continue
		}
		if b.promoted&(1<<c) != 0 {
			b.lagged |= 1 << c // the promoted one is gone too
		}
		if b.p.Members&(1<<c) != 0 {
			b.failed |= 1 << c
			b.err = transport.ErrClosed
		}
	}
	*v.member(g, c) = member{}
	v.notedLocked(g, c)
}

// joinLocked enters a member, and its server if it is new to the volume.
func (v *Volume) joinLocked(g raid.GroupID, c raid.Col, m raid.Member) (*peer, *memberRef) {
	p := v.peerOfLocked(m)
	ref := &memberRef{group: g, col: c, chunk: m.Chunk, rebuilding: m.State == raid.MemberRebuilding}
	p.members = append(p.members, ref)
	v.memberOf[int(g)*v.geo.Members()+int(c)] = member{peer: p, chunk: m.Chunk, ref: ref}
	v.notedLocked(g, c)
	return p, ref
}

// peerOfLocked finds the server of a member, entered if it is new to the volume.
func (v *Volume) peerOfLocked(m raid.Member) *peer {
	var p *peer
	for _, o := range v.allPeers() {
		if o.id == m.Server && o.inc == m.Incarnation {
			p = o
		}
	}
	if p == nil {
		p = &peer{v: v, id: m.Server, addr: m.Addr, inc: m.Incarnation}
		all := append(slices.Clone(v.allPeers()), p)
		v.peers.Store(&all)
	}
	return p
}

// startPeer starts keeping a session with p. o, when not nil, is told how that
// begins.
func (v *Volume) startPeer(p *peer, o *opening) {
	ctx, cancel := context.WithCancel(v.run)
	p.stop = cancel
	v.wg.Go(func() {
		defer cancel()
		p.run(ctx, o)
	})
}

// openLate opens a member that was added to a session that exists, or that the
// server had no memory for when the session was made. When the session ends
// meanwhile, the next one opens it.
func (p *peer) openLate(ctx context.Context, m *memberRef) {
	v := p.v
	conn := p.conn()
	for wait := redialFirst; conn != nil && ctx.Err() == nil && v.seated(m); wait = min(2*wait, redialMost) {
		octx, cancel := context.WithTimeout(ctx, v.cfg.DialTimeout)
		err := p.open(octx, ctx, conn, m)
		cancel()
		if err == nil {
			a := v.lock()
			if p.state == peerUp && p.conn() == conn && v.seatOf(m).ref == m {
				v.setSeatUpLocked(m, true)
				v.healthChangedLocked()
				v.restartStalledLocked(a)
			}
			v.unlock(a)
			if !v.seated(m) {
				v.release(conn, m) // whoever let it go may have been first
			}
			v.idle()
			return
		}
		if errors.Is(err, errChunkGone) {
			v.chunkGone(m, err)
			return
		}
		v.log.Warn("a chunk cannot be opened: its member is not used until it is", "server", p.id, "chunk", m.chunk, "err", err)
		select {
		case <-ctx.Done():
		case <-conn.Done():
			return
		case <-time.After(jitter.Around(wait)):
		}
	}
}

// rebuildLocked fills in what a report says of replaced and pending members. It
// vouches for nobody: it names those for whom leaseReport did, so that whoever sends
// the report claims nothing new.
func (v *Volume) rebuildLocked(r *Report) {
	r.Rebuilt = []raid.ChunkID{}
	for i := range v.memberOf {
		m := &v.memberOf[i]
		if m.ref == nil || !m.ref.rebuilding {
			continue
		}
		missing := v.mu.log.Missing(m.ref.group, m.ref.col)
		r.RebuildRows += uint64(missing)
		if missing == 0 && m.ref.claimed && m.peer.state == peerUp && m.ref.conn == m.peer.conn() {
			r.Rebuilt = append(r.Rebuilt, m.chunk)
		}
	}
	for i := range v.movers {
		m := &v.movers[i]
		if m.ref == nil {
			continue
		}
		r.RebuildRows += uint64(v.mu.log.PendingMissing(m.ref.group, m.ref.col))
		if v.mu.log.Vouched(m.ref.group, m.ref.col) && v.completeLocked(m) {
			r.Rebuilt = append(r.Rebuilt, m.chunk)
		}
	}
}
