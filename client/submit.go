package client

import (
	"fmt"

	"dmps/raid"
)

// Submit implements Device.
func (v *Volume) Submit(op *Op) {
	op.Err = nil
	op.st = opState{start: nanotime(), since: v.clock()}
	if op.Off < 0 || op.Len < 0 || op.Off > v.size || op.Len > v.size-op.Off {
		v.refuse(op, fmt.Errorf("%d bytes at %d of %d: %w", op.Len, op.Off, v.size, ErrRange))
		return
	}
	if op.Kind == OpWrite {
		markFilled(op)
	}
	a := v.lock()
	if v.mu.closed != nil && op.Kind != OpFlush {
		err := v.mu.closed
		v.unlock(a)
		v.refuse(op, err)
		return
	}
	v.mu.ops++
	switch op.Kind {
	case OpRead:
		v.unlock(a)
		v.startRead(op)
		return
	case OpWrite:
		v.acceptWriteLocked(op, a)
	case OpTrim, OpZero:
		v.mu.count.trims++
		v.unlock(a)
		v.startTrim(op)
		return
	case OpFlush:
		// Every answered write is in the memory of all members that its row
		// has: there is nothing left to flush. Without a usable volume the
		// answer must not be success, though.
		v.mu.count.flushes++
		op.Err = v.mu.closed
		a.done = append(a.done, op)
	default:
		op.Err = fmt.Errorf("operation %d: %w", op.Kind, ErrRange)
		a.done = append(a.done, op)
	}
	v.unlock(a)
}

// refuse answers an op that was never accepted.
func (v *Volume) refuse(op *Op, err error) {
	op.Err = err
	if op.Kind == OpWrite {
		freeBufs(op.Bufs)
	}
	op.Done(op)
}

// span gives the first page of an op and how many it touches.
func span(op *Op) (raid.PageNo, int) {
	if op.Len == 0 {
		return raid.PageNo(op.Off >> raid.PageShift), 0
	}
	first := op.Off >> raid.PageShift
	last := (op.Off + op.Len - 1) >> raid.PageShift
	return raid.PageNo(first), int(last - first + 1)
}

// markFilled finds the whole pages of a write that have one byte value. It
// runs before the lock is taken; most pages fail at their first word.
func markFilled(op *Op) {
	first, n := span(op)
	for i := range n {
		b := op.Bufs[i]
		b.page = first + raid.PageNo(i)
		b.op = op
		b.newer, b.next, b.hash, b.reads = nil, nil, nil, nil
		b.lo, b.hi = 0, raid.PageSize
		if i == 0 {
			b.lo = uint16(op.Off & (raid.PageSize - 1))
		}
		if i == n-1 {
			if end := (op.Off + op.Len) & (raid.PageSize - 1); end != 0 {
				b.hi = uint16(end)
			}
		}
		b.filled = b.lo == 0 && b.hi == raid.PageSize && sameFilled(b.Page)
		b.fill = b.Page[0]
	}
}

// acceptWriteLocked enters the pages of a write into the pending table.
func (v *Volume) acceptWriteLocked(op *Op, a *after) {
	first, n := span(op)
	if v.trimCoversLocked(first, uint64(n)) {
		v.mu.held.push(op)
		return
	}
	v.mu.count.writeOps++
	v.mu.count.writeBytes += op.Len
	op.st.left = n
	if n == 0 {
		a.done = append(a.done, op)
		return
	}
	for _, b := range op.Bufs[:n] {
		v.acceptPageLocked(b, a)
	}
}

// acceptPageLocked enters one page.
func (v *Volume) acceptPageLocked(b *Buf, a *after) {
	whole := b.lo == 0 && b.hi == raid.PageSize
	prev := v.mu.pending.newest(b.page)
	switch {
	case prev == nil && whole:
		v.mu.pending.add(b)
		v.queueLocked(b)
	case prev == nil:
		v.mu.pending.add(b)
		b.state = bufMerging
		v.mergeFromStoreLocked(b, a)
	case whole:
		prev.newer = b
		b.state = bufWaiting
	default:
		prev.newer = b
		b.state = bufMerging
		if prev.whole() {
			v.mergeLocked(b, prev.Page, a)
		}
	}
}

// queueLocked gives a whole page to the coalescer.
func (v *Volume) queueLocked(b *Buf) {
	b.state = bufQueued
	if v.inplace != nil {
		g, _ := v.inplace.Locate(b.page)
		v.mu.groupQ[g].push(b)
	}
	if v.inplace == nil {
		v.mu.queue.push(b)
	} else {
		v.mu.queue.n++
	}
}

// mergeLocked completes b, a sub-page write, with the page's old content.
func (v *Volume) mergeLocked(b *Buf, old []byte, a *after) {
	copy(b.Page[:b.lo], old[:b.lo])
	copy(b.Page[b.hi:], old[b.hi:])
	b.fill = b.Page[0]
	b.filled = sameFilled(b.Page)
	b.state = bufWaiting
	if n := b.newer; n != nil && n.state == bufMerging {
		v.mergeLocked(n, b.Page, a)
	}
	if v.mu.pending.oldest(b.page) == b {
		v.queueLocked(b)
	}
}

// mergeFromStoreLocked finds the old content of a sub-page write that has no
// older version pending.
func (v *Volume) mergeFromStoreLocked(b *Buf, a *after) {
	u := v.newUnitLocked()
	u.merge = b
	u.page, u.since = b.page, v.clock()
	bufs, ok := v.merges.tryGet(1, a.scratch[:0])
	if !ok {
		// Try again when something completes.
		u.next = v.mu.mergers
		v.mu.mergers = u
		return
	}
	u.buf = bufs[0]
	r := router{v: v, a: a}
	r.route(u)
	r.flush()
}

// partDoneLocked counts one finished part of op.
func (v *Volume) partDoneLocked(op *Op, err error, a *after) {
	if err != nil && op.Err == nil {
		op.Err = err
	}
	op.st.left--
	if op.st.left > 0 {
		return
	}
	took := nanotime() - op.st.start
	switch op.Kind {
	case OpWrite:
		v.mu.writeLat.add(took)
	case OpRead:
		v.mu.readLat.add(took)
		v.mu.count.readOps++
		v.mu.count.readBytes += op.Len
	}
	if op.Err != nil && op.Kind != opClean {
		v.mu.count.ioErrors++
	}
	if op.Err != nil && op.Kind == OpRead {
		// The front end gets an error and no buffers.
		for _, b := range op.Bufs {
			if b != nil {
				a.free = append(a.free, b)
			}
		}
		op.Bufs = op.Bufs[:0]
	}
	a.done = append(a.done, op)
}

// writtenLocked answers the page-out b, whose content is stored, and the reads
// that waited for it, and lets the next version of its page go.
func (v *Volume) writtenLocked(b *Buf, a *after) {
	for u := b.reads; u != nil; {
		next := u.next
		u.next = nil
		copy(u.buf.Page, b.Page)
		v.deliverLocked(u, u.buf, a)
		u = next
	}
	b.reads = nil
	v.leaveLocked(b, nil, a)
}

// failPageLocked gives the page-out b up with err. Reads that waited for it look
// for what is there now.
func (v *Volume) failPageLocked(b *Buf, err error, a *after) {
	u := b.reads
	b.reads = nil
	v.leaveLocked(b, err, a)
	if u == nil {
		return
	}
	r := router{v: v, a: a}
	for u != nil {
		next := u.next
		u.next = nil
		v.againLocked(&r, u)
		u = next
	}
	r.flush()
}

func (v *Volume) leaveLocked(b *Buf, err error, a *after) {
	next := b.newer
	v.mu.pending.replace(b, next)
	if next != nil {
		switch {
		case next.state == bufWaiting:
			v.queueLocked(next)
		case next.state == bufMerging:
			// b failed before it was whole: ask the store.
			v.mergeFromStoreLocked(next, a)
		}
	}
	v.partDoneLocked(b.op, err, a)
	a.free = append(a.free, b)
}
