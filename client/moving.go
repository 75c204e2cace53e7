package client

import (
	"context"
	"slices"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// Moving a member off a living server. The layout has a pending member beside
// the one that counts (raid.Pending). This client
//
//	enters it         an empty chunk, whatever an earlier client has filled
//	writes it too     every batch from the moment that it is open (batch.also)
//	fills it          with the rows in use before, from the one that leaves (rebuild.go)
//	vouches for it    in its report to meta, when it misses nothing (raid.Log.Vouch)
//	promotes it       when the layout says that it is the member
//	lets the old go   when nothing in flight is aimed at it any more
//
// and drops it when the layout does not have it any more. The group is never
// degraded by that: until the promotion the old member has every row.

// departMost is how long transfers that are aimed at a chunk that has left may
// take before it is released all the same.
const departMost = 5 * time.Second

// dest is whom a column of a batch is sent to. A batch keeps it, because the
// layout may change while it is in flight.
type dest struct {
	peer  *peer // nil: nobody
	chunk raid.ChunkID
	ref   *memberRef
}

func (m *member) dest() dest { return dest{peer: m.peer, chunk: m.chunk, ref: m.ref} }

// mover is the pending member of column c of group g; its peer is nil when
// there is none.
func (v *Volume) mover(g raid.GroupID, c raid.Col) *member {
	return &v.movers[int(g)*v.geo.Members()+int(c)]
}

// seatOf is where m is entered: among the members or the pending ones.
func (v *Volume) seatOf(m *memberRef) *member {
	if m.pending {
		return v.mover(m.group, m.col)
	}
	return v.member(m.group, m.col)
}

// setSeatUpLocked tells the translator whether m can be written, and read if it
// is a member. One that the recovery did not see is not up before it was compared:
// that erases what the map does not know, a batch in flight too.
func (v *Volume) setSeatUpLocked(m *memberRef, up bool) {
	up = up && (m.compared || !v.recovered.Load())
	if m.pending {
		v.mu.log.SetPendingUp(m.group, m.col, up)
	} else {
		v.mu.log.SetUp(m.group, m.col, up)
	}
}

// missingLocked counts the rows in use that m does not have.
func (v *Volume) missingLocked(m *memberRef) int {
	if m.pending {
		return v.mu.log.PendingMissing(m.group, m.col)
	}
	return v.mu.log.Missing(m.group, m.col)
}

// enterMoversLocked makes the pending members of a group those of the layout,
// after its members.
func (v *Volume) enterMoversLocked(g *raid.Group) {
	var want [raid.MaxData + raid.MaxParity]raid.Member
	for _, p := range g.Pending {
		want[p.Col] = p.Member
	}
	for c := range raid.Col(v.geo.Members()) {
		cur := v.mover(g.ID, c)
		if cur.peer != nil && cur.chunk != want[c].Chunk {
			v.dropMoverLocked(g.ID, c)
		}
		if cur.peer == nil && want[c].Chunk != 0 {
			v.addMoverLocked(g.ID, c, want[c])
		}
	}
}

// addMoverLocked enters a pending member. What an earlier client wrote to it is
// not known, so it counts as empty, and what is there is erased first
// (compare.go): the headers that it has could be compared by their tags only,
// and a tag is too short to believe that an old slot is the row. One that joins
// while this client has the volume is new.
func (v *Volume) addMoverLocked(g raid.GroupID, c raid.Col, m raid.Member) {
	v.mu.log.AddPending(g, c)
	p := v.peerOfLocked(m)
	ref := &memberRef{group: g, col: c, chunk: m.Chunk, pending: true, compared: v.mu.ready || v.layout.FirstEpoch}
	p.members = append(p.members, ref)
	*v.mover(g, c) = member{peer: p, chunk: m.Chunk, ref: ref}
	v.log.Info("a member moves", "group", g, "column", c, "to", m.Server)
	v.startLocked(p, ref)
}

// startLocked has a member opened that was entered while the volume runs.
func (v *Volume) startLocked(p *peer, ref *memberRef) {
	switch {
	case p.stop == nil:
		v.startPeer(p, nil)
	case p.state == peerUp:
		v.wg.Go(func() { p.openLate(v.run, ref) })
	}
}

// dropMoverLocked ends a move that was given up.
func (v *Volume) dropMoverLocked(g raid.GroupID, c raid.Col) {
	cur := v.mover(g, c)
	v.log.Info("a member does not move after all", "group", g, "column", c, "to", cur.peer.id)
	v.lagLocked(g, c, cur.ref)
	v.mu.log.DropPending(g, c)
	gone := *cur
	*cur = member{}
	v.departLocked(gone)
}

// lagLocked makes the batches in flight not count the pending member any more.
func (v *Volume) lagLocked(g raid.GroupID, c raid.Col, ref *memberRef) {
	for _, b := range v.batches {
		if b.left > 0 && b.p.Group == g && b.also[c].ref == ref {
			b.lagged |= 1 << c
		}
	}
}

// promoteLocked makes the pending member the member. When the old one was lost
// before the new one was complete, lost says so: then batches that the old one
// was to have are placed again.
func (v *Volume) promoteLocked(g raid.GroupID, c raid.Col, lost bool) {
	cur, next := v.member(g, c), v.mover(g, c)
	for _, b := range v.batches {
		if b.left == 0 || b.p.Group != g {
			continue
		}
		if b.also[c].ref != next.ref {
			b.lagged |= 1 << c
		}
		if lost && b.p.Members&(1<<c) != 0 {
			b.failed |= 1 << c
			b.err = transport.ErrClosed
		} else {
			b.promoted |= 1 << c
		}
	}
	v.mu.log.Promote(g, c)
	v.log.Info("a member has moved", "group", g, "column", c, "to", next.peer.id, "complete", !lost)
	gone := *cur
	*cur, *next = *next, member{}
	cur.ref.pending, cur.ref.rebuilding = false, lost
	v.notedLocked(g, c)
	if gone.peer != nil {
		v.departLocked(gone)
	}
}

// departLocked lets a chunk go whose server may well live: what is aimed at it
// ends first, so that no page-in has to look for its page twice; then the server
// is told, or the session ended if it was the last chunk there.
func (v *Volume) departLocked(m member) {
	p := m.peer
	p.members = slices.DeleteFunc(p.members, func(o *memberRef) bool { return o == m.ref })
	v.wg.Go(func() {
		until := time.Now().Add(departMost)
		for v.run.Err() == nil && v.aimedAt(m) && time.Now().Before(until) {
			time.Sleep(2 * time.Millisecond)
		}
		v.mu.Lock()
		if len(p.members) == 0 {
			v.partLocked(p)
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		conn := p.conn()
		if conn == nil {
			return // a session that does not open it holds nothing
		}
		v.release(conn, m.ref)
	})
}

// release tells a server that a chunk has left.
func (v *Volume) release(conn transport.Conn, m *memberRef) {
	ctx, cancel := context.WithTimeout(v.run, v.cfg.DialTimeout)
	defer cancel()
	err := conn.OpenChunk(ctx, uint64(m.chunk), transport.ChunkSpec{
		Slots: v.layout.ChunkSlots, HeaderBytes: uint32(v.layout.HeaderBytes(m.col)), Release: true,
	})
	if err != nil && v.run.Err() == nil {
		v.log.Warn("a server was not told that a chunk has left: it keeps the memory until the session ends", "chunk", m.chunk, "err", err)
	}
}

// seated reports whether m is still a member, or a pending one.
func (v *Volume) seated(m *memberRef) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seatOf(m).ref == m
}

// partLocked ends the session with a server that the volume has no member on.
func (v *Volume) partLocked(p *peer) {
	p.parted = true
	if p.stop != nil {
		p.stop()
	}
	rest := slices.DeleteFunc(slices.Clone(v.allPeers()), func(o *peer) bool { return o == p })
	v.peers.Store(&rest)
}

// aimedAt reports whether something in flight is aimed at a chunk.
func (v *Volume) aimedAt(m member) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, b := range v.batches {
		if b.left > 0 && (b.to[m.ref.col].ref == m.ref || b.also[m.ref.col].ref == m.ref) {
			return true
		}
	}
	m.peer.mu.Lock()
	defer m.peer.mu.Unlock()
	for x := m.peer.mu.oldest; x != nil; x = x.next {
		if x.req.Chunk == uint64(m.chunk) {
			return true
		}
	}
	for x := m.peer.mu.waitHead; x != nil; x = x.next {
		if x.req.Chunk == uint64(m.chunk) {
			return true
		}
	}
	return false
}

// completeLocked reports whether a pending member is up and has every row in use.
func (v *Volume) completeLocked(m *member) bool {
	return m.peer.state == peerUp && m.ref.conn != nil && m.ref.conn == m.peer.conn() &&
		v.mu.log.PendingMissing(m.ref.group, m.ref.col) == 0
}

// vouchLocked reports whether meta may be told that a pending member has
// everything, and vouches for it if nobody did before and answers says that meta
// does answer. A batch in flight that it is not a part of would make it miss rows
// whose headers name it.
func (v *Volume) vouchLocked(m *member, answers bool) bool {
	g, c := m.ref.group, m.ref.col
	if !v.completeLocked(m) {
		return false
	}
	if v.mu.log.Vouched(g, c) {
		return true
	}
	if !answers || !v.mu.log.MayVouch(g, c) {
		return false
	}
	for _, b := range v.batches {
		if b.left > 0 && b.p.Group == g && (b.also[c].ref != m.ref || b.lagged&(1<<c) != 0) {
			return false
		}
	}
	v.mu.log.Vouch(g, c)
	return true
}

// chunkGone takes out a member whose chunk its server does not have any more:
// the layout has given it up, or will, and this client has not heard of that.
// It stays out for as long as the layout names that chunk.
func (v *Volume) chunkGone(m *memberRef, cause error) {
	a := v.lock()
	s := v.seatOf(m)
	if s.ref != m {
		v.unlock(a)
		return // it has left in the meantime
	}
	p := s.peer
	p.members = slices.DeleteFunc(p.members, func(o *memberRef) bool { return o == m })
	if m.pending {
		v.lagLocked(m.group, m.col, m)
		v.mu.log.SetPendingUp(m.group, m.col, false)
		m.conn = nil
	} else {
		v.loseLocked(m.group, m.col)
		s.gone, s.told = m.chunk, m.rebuilding && !m.claimed
		v.notedLocked(m.group, m.col)
		v.askNowLocked() // rows may have to wait until meta has noted who misses them
	}
	v.healthChangedLocked()
	v.restartStalledLocked(a)
	v.unlock(a)
	v.log.Error("a server does not hold a chunk that it held", "server", p.id, "group", m.group, "column", m.col, "err", cause)
	v.idle()
}

// settleColumns settles, when all transfers of a batch have completed, who has
// it: members with the promoted ones, and pending members. It reports false when
// the batch must be placed again.
func (b *batch) settleColumns(l *raid.Log, minAck int) (wrote uint32, ok bool) {
	second := b.p.Second &^ b.lagged
	wrote = b.p.Members&^b.promoted | second&b.promoted
	b.p.Second = second &^ b.promoted
	ok = b.failed&^b.promoted == 0 && wrote&b.p.Named == b.p.Named && popcount(wrote) >= minAck &&
		l.Unvouched(&b.p, b.p.Second) == 0
	return wrote, ok
}
