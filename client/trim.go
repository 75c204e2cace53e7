package client

import (
	"fmt"

	"dmps/raid"
)

// Trims and zeroes of whole pages are recorded in notes, like same-filled
// pages: answered when a note with them is stored with full redundancy. That holds
// for pages that read as zeros already, too: an answer from the map alone could be
// undone by a write that was given up, and a client that was replaced could give it.
//
// A trim and a write of the same page are never under way together, so that
// the order of their commits is that of their numbers: a trim waits for the
// page-outs that are pending (blocked), a write for the trims that are not
// answered (held).

// startTrim takes an accepted OpTrim or OpZero.
func (v *Volume) startTrim(op *Op) {
	first := (op.Off + raid.PageSize - 1) >> raid.PageShift
	end := (op.Off + op.Len) >> raid.PageShift
	if op.Kind == OpTrim || op.Off&(raid.PageSize-1) == 0 && (op.Off+op.Len)&(raid.PageSize-1) == 0 {
		v.trimPages(op, first, end, nil)
		return
	}
	// The edges are sub-page writes of zeros.
	edges := 0
	if first > end { // inside of one page
		edges = 1
	} else {
		if op.Off&(raid.PageSize-1) != 0 {
			edges++
		}
		if (op.Off+op.Len)&(raid.PageSize-1) != 0 {
			edges++
		}
	}
	op.st.wait = waiter{n: edges, op: op, granted: v.granted.edges}
	if err := v.user.wait(&op.st.wait); err != nil {
		v.answer(op, err)
	}
}

// edgesGranted goes on with an OpZero that has the buffers for its edges.
func (v *Volume) edgesGranted(w *waiter) {
	op := w.op
	if w.bufs == nil {
		v.answer(op, ErrClosed)
		return
	}
	first := (op.Off + raid.PageSize - 1) >> raid.PageShift
	end := (op.Off + op.Len) >> raid.PageShift
	v.trimPages(op, first, end, w.bufs)
	v.pump()
	v.flushHooks()
}

// edge makes b a write of zeros to [from, to), bytes of the device inside of
// one page.
func edge(op *Op, b *Buf, from, to int64) {
	clear(b.Page)
	b.op = op
	b.page = raid.PageNo(from >> raid.PageShift)
	b.newer, b.next, b.hash, b.reads = nil, nil, nil, nil
	b.lo = uint16(from & (raid.PageSize - 1))
	b.hi = uint16(to - int64(b.page)<<raid.PageShift)
	b.filled, b.fill = false, 0
}

func (v *Volume) trimPages(op *Op, first, end int64, edges []*Buf) {
	k := 0
	lo, hi := op.Off, op.Off+op.Len
	if len(edges) > 0 && lo&(raid.PageSize-1) != 0 {
		edge(op, edges[k], lo, min(hi, (lo|(raid.PageSize-1))+1))
		k++
	}
	if k < len(edges) {
		edge(op, edges[k], end<<raid.PageShift, hi)
	}
	if v.inplace != nil {
		v.trimInPlace(op, first, end, edges)
		return
	}
	a := v.lock()
	defer v.unlock(a)
	op.st.left = len(edges) + 1
	for _, b := range edges {
		if v.trimCoversLocked(b.page, 1) {
			v.mu.heldEdges.push(b)
			continue
		}
		v.acceptPageLocked(b, a)
	}
	if first >= end {
		v.partDoneLocked(op, nil, a)
		return
	}
	op.st.page, op.st.count = raid.PageNo(first), uint64(end-first)
	v.mu.active = append(v.mu.active, op)
	if v.mu.pending.overlaps(op.st.page, op.st.count) {
		v.mu.blocked.push(op)
	} else {
		v.mu.trims.push(op)
	}
}

// trimCoversLocked reports whether an unanswered trim touches a page of
// [first, first+n).
func (v *Volume) trimCoversLocked(first raid.PageNo, n uint64) bool {
	for _, op := range v.mu.active {
		if first < op.st.page+raid.PageNo(op.st.count) && op.st.page < first+raid.PageNo(n) {
			return true
		}
	}
	return false
}

// unblockTrimsLocked queues trims whose pages have no pending page-out any
// more.
func (v *Volume) unblockTrimsLocked() {
	if v.mu.blocked.n == 0 {
		return
	}
	blocked := v.mu.blocked.takeAll()
	for op := blocked.pop(); op != nil; op = blocked.pop() {
		if v.mu.pending.overlaps(op.st.page, op.st.count) {
			v.mu.blocked.push(op)
		} else {
			v.mu.trims.push(op)
		}
	}
}

// trimmedLocked ends the whole pages of a trim and lets the writes go that
// waited for it.
func (v *Volume) trimmedLocked(op *Op, err error, a *after) {
	for i, o := range v.mu.active {
		if o == op {
			last := len(v.mu.active) - 1
			v.mu.active[i] = v.mu.active[last]
			v.mu.active[last] = nil
			v.mu.active = v.mu.active[:last]
			break
		}
	}
	v.partDoneLocked(op, err, a)
	v.releaseHeldLocked(a)
}

func (v *Volume) releaseHeldLocked(a *after) {
	held := v.mu.held.takeAll()
	for op := held.pop(); op != nil; op = held.pop() {
		v.acceptWriteLocked(op, a) // holds it again if another trim covers it
	}
	edges := v.mu.heldEdges
	v.mu.heldEdges = bufQueue{}
	for b := edges.pop(); b != nil; b = edges.pop() {
		if v.trimCoversLocked(b.page, 1) {
			v.mu.heldEdges.push(b)
		} else {
			v.acceptPageLocked(b, a)
		}
	}
}

// failHeldLocked answers trims that wait and writes that wait for trims.
func (v *Volume) failHeldLocked(err error, a *after) {
	for op := v.mu.blocked.pop(); op != nil; op = v.mu.blocked.pop() {
		v.trimmedLocked(op, err, a)
	}
	for op := v.mu.held.pop(); op != nil; op = v.mu.held.pop() {
		a.free = append(a.free, op.Bufs...)
		op.Err = fmt.Errorf("write that waited for a trim: %w", err)
		a.done = append(a.done, op)
	}
	for b := v.mu.heldEdges.pop(); b != nil; b = v.mu.heldEdges.pop() {
		v.partDoneLocked(b.op, err, a)
		a.free = append(a.free, b)
	}
}
