package client

import (
	"fmt"
	"sort"

	"dmps/raid"
)

// Linear and striped layouts: every page has one place and is written over
// there. There is no redundancy to fall back on: what a server does not take
// waits for it to come back, and fails after the patience.

// groupQueue holds the page-outs for one chunk.
type groupQueue struct {
	bufQueue
	starved int64 // since when the server takes nothing, by Volume.clock; 0: it does
	parked  int64 // when it was found away first, nanoseconds
}

// nextInPlaceLocked forms a batch of up to 32 pages for one chunk.
func (v *Volume) nextInPlaceLocked(*after) *batch {
	if v.mu.queue.n == 0 || v.mu.batches == nil || v.mu.flying >= maxBatches {
		return nil
	}
	for range v.mu.groupQ {
		g := v.mu.groupHand
		v.mu.groupHand = (g + 1) % len(v.mu.groupQ)
		q := &v.mu.groupQ[g]
		if q.n == 0 || (v.mu.flying >= smallBatches && q.n < raid.MaxBatchPages && v.mu.flying >= len(v.mu.groupQ)) {
			continue
		}
		if p := v.member(raid.GroupID(g), 0).peer; p == nil || p.state != peerUp {
			if q.starved == 0 {
				q.starved = v.clock()
			}
			if q.parked == 0 {
				q.parked = nanotime()
			}
			continue
		}
		b := v.mu.batches
		v.mu.batches = b.next
		b.next = nil
		b.reset()
		b.group = raid.GroupID(g)
		for q.n > 0 && len(b.bufs) < raid.MaxBatchPages && len(b.bufs) < cap(b.bufs) {
			buf := q.pop()
			v.mu.queue.n--
			b.addPage(buf)
		}
		v.mu.seq++
		b.p.Seq = v.mu.seq
		v.mu.flying++
		b.begun, b.again, q.parked = v.clock(), q.starved != 0, 0
		b.to[0], b.also[0] = v.member(b.group, 0).dest(), dest{}
		b.left = 1
		return b
	}
	return nil
}

// sendInPlace sends a batch to its chunk. Same-filled pages travel as a header.
func (v *Volume) sendInPlace(b *batch) {
	m := b.to[0]
	x := v.xfers.get()
	x.batch = b
	x.req.Op = opWrite
	x.req.Chunk = uint64(m.chunk)
	for _, buf := range b.bufs {
		g, i := v.inplace.Locate(buf.page)
		h := raid.Header{Kind: raid.KindPage, Filled: 1, Members: 1, Page: buf.page, Seq: b.p.Seq, Site: v.site(g, i)}
		page := buf.Page
		if buf.filled {
			h.Kind, h.Fill, page = raid.KindFill, buf.fill, nil
		} else {
			h.CRC = raid.Checksum(page)
		}
		h.Put(buf.hdr[:raid.HeaderSize], nil)
		x.add(i, buf.hdr[:raid.HeaderSize], page)
	}
	m.peer.send(x)
}

// finishInPlaceLocked answers a batch, or queues it again.
func (v *Volume) finishInPlaceLocked(b *batch, a *after) {
	v.mu.flying--
	v.mu.count.batches++
	v.mu.count.batchPages += int64(len(b.bufs))
	q := &v.mu.groupQ[b.group]
	switch {
	case b.failed == 0:
		q.starved = 0
	case q.starved == 0:
		q.starved = b.begun
	}
	for i := len(b.bufs) - 1; i >= 0; i-- {
		buf := b.bufs[i]
		if b.failed == 0 {
			v.writtenLocked(buf, a)
			continue
		}
		p := v.member(b.group, 0).peer
		if p == nil || p.state == peerGone {
			v.failPageLocked(buf, fmt.Errorf("writing page %d in place: %w: %w", buf.page, b.err, ErrLost), a)
			continue
		}
		if err := v.endedLocked(); err != nil {
			v.failPageLocked(buf, fmt.Errorf("writing page %d in place: %w", buf.page, err), a)
			continue
		}
		buf.state = bufQueued
		q.pushFront(buf)
		v.mu.queue.n++
	}
	switch {
	case q.n == 0:
		q.starved = 0
	case b.again:
		v.expireGroupLocked(b.group, a)
	}
	v.releaseBatchLocked(b)
}

// expireInPlaceLocked answers what has waited for its server for longer than
// the patience. It reports whether anything waited. Each group counts by itself:
// servers that are up must not make those wait for ever who wait for another.
func (v *Volume) expireInPlaceLocked(a *after) (waiting bool) {
	for g := range v.mu.groupQ {
		q := &v.mu.groupQ[g]
		switch {
		case q.starved == 0 || q.n == 0: // what is in flight ends by itself
		case q.parked != 0 && v.overdueLocked(q.starved) && v.triedGroupLocked(raid.GroupID(g)):
			v.expireGroupLocked(raid.GroupID(g), a)
			waiting = true // the front ends have answers to send
		default:
			waiting = true
		}
	}
	return waiting
}

// expireGroupLocked answers what has waited to be sent to group g for too long.
func (v *Volume) expireGroupLocked(g raid.GroupID, a *after) {
	q := &v.mu.groupQ[g]
	err := fmt.Errorf("writing in place: its server did not come back within %v: %w", v.cfg.Patience, ErrNoSpace)
	v.mu.queue.n -= v.expireBufsLocked(&q.bufQueue, q.starved, err, a)
	if q.n == 0 {
		q.starved, q.parked = 0, 0
	}
}

// triedGroupLocked reports whether the server of g, which is away, was tried since.
func (v *Volume) triedGroupLocked(g raid.GroupID) bool {
	p := v.member(g, 0).peer
	return p == nil || p.state == peerGone || v.triedSinceLocked(p, v.mu.groupQ[g].parked)
}

// failGroupLocked answers everything that waits to be sent to group g with err.
func (v *Volume) failGroupLocked(g raid.GroupID, err error, a *after) {
	q := &v.mu.groupQ[g]
	for buf := q.pop(); buf != nil; buf = q.pop() {
		v.mu.queue.n--
		v.failPageLocked(buf, fmt.Errorf("writing page %d in place: %w", buf.page, err), a)
	}
	q.starved, q.parked = 0, 0
}

// trimInPlace writes zeros: a header for each page, 256 pages at a time.
func (v *Volume) trimInPlace(op *Op, first, end int64, edges []*Buf) {
	whole := max(0, end-first)
	a := v.lock()
	op.st.left = len(edges) + int(whole)
	for _, b := range edges {
		v.acceptPageLocked(b, a)
	}
	if len(edges) == 0 && whole == 0 {
		a.done = append(a.done, op) // else the last part answers it, perhaps already
	}
	v.unlock(a)
	if whole > 0 {
		op.st.page, op.st.count = raid.PageNo(first), uint64(whole)
		v.trimMore(op)
	}
}

const trimStep = 256

func (v *Volume) trimMore(op *Op) {
	n := min(op.st.count, trimStep)
	op.st.wait = waiter{n: int(n), op: op, granted: v.granted.trim}
	if err := v.user.wait(&op.st.wait); err != nil {
		v.trimGranted(&op.st.wait)
	}
}

func (v *Volume) trimGranted(w *waiter) {
	op := w.op
	a := v.lock()
	if w.bufs == nil {
		op.st.left -= int(op.st.count) - 1
		op.st.count = 0
		v.partDoneLocked(op, ErrClosed, a)
	}
	for _, b := range w.bufs {
		at := int64(op.st.page) << raid.PageShift
		edge(op, b, at, at+raid.PageSize)
		b.filled = true
		op.st.page++
		op.st.count--
		v.acceptPageLocked(b, a)
	}
	more := op.st.count > 0
	v.unlock(a)
	if more {
		v.trimMore(op)
	}
	v.pump()
	v.flushHooks()
}

// reportInPlaceLocked says how the chunks are. Of one that is gone all pages are lost,
// also those that were never written: nobody can tell, and no write finds a place.
func (v *Volume) reportInPlaceLocked(r *Report) {
	for g := range raid.GroupID(len(v.layout.Groups)) {
		switch p := v.member(g, 0).peer; {
		case p == nil || p.state == peerGone:
			r.LostPages += v.pagesInPlace(g)
		case p.state == peerUp:
			continue
		}
		r.DegradedGroups++
	}
	failed := v.barredLocked(r.DegradedGroups > 0)
	switch {
	case r.DegradedGroups == 0:
		return
	case failed || r.LostPages > 0:
		r.State = StateFailed
	default:
		r.State = StateDegraded
	}
	r.RedundancyLeft = -1
}

// pagesInPlace is how many pages of the volume a chunk holds: its first ones.
func (v *Volume) pagesInPlace(g raid.GroupID) uint64 {
	return uint64(sort.Search(int(v.layout.ChunkSlots), func(i int) bool {
		_, ok := v.inplace.Page(g, raid.Index(i))
		return !ok
	}))
}
