package client

import (
	"fmt"

	"dmps/raid"
	"dmps/transport"
)

const (
	opRead        = transport.OpRead
	opWrite       = transport.OpWrite
	opReadHeaders = transport.OpReadHeaders
)

// The path of a page-out:
//
//	Submit        accepts: pending table, queue of the coalescer
//	nextBatch     takes what waits, asks the translator for rows (under the lock)
//	sendBatch     checksums, parity, headers; one transfer a member (no lock)
//	batchPart     a member has answered
//	finishBatch   all have: map updated, ops answered. One has not: placed again

// nextBatch forms the next batch, or gives nil when there is nothing to send
// or enough is in flight. It never waits for more pages while nothing is in
// flight: latency first, batches come from load.
func (v *Volume) nextBatch() *batch {
	a := v.lock()
	defer v.unlock(a)
	if err := v.endedLocked(); err != nil {
		v.failWaitingLocked(err, a) // what a page-in, or the previous version, has let go since
		if v.mu.log != nil {
			v.nextCleanLocked(a) // ends cleanings that were read
		}
		return nil
	}
	if v.mu.settling && !v.mu.parting {
		return v.nextCleanLocked(a) // moves what the recovery is not sure of
	}
	if !v.mu.ready || v.mu.parting {
		return nil
	}
	v.retryMergersLocked(a)
	v.unblockTrimsLocked()
	if v.inplace != nil {
		return v.nextInPlaceLocked(a)
	}
	if b := v.nextCleanLocked(a); b != nil {
		return b
	}
	b := v.mu.batches
	if b == nil || !v.mayFlyLocked() || !v.fillLocked(b, a) {
		return nil
	}
	v.mu.batches = b.next
	b.next = nil
	v.mu.flying++
	b.begun, b.again = v.clock(), v.mu.starved != 0
	b.aimLocked(v)
	return b
}

// mayFlyLocked decides whether another batch may start.
func (v *Volume) mayFlyLocked() bool {
	waiting := v.mu.queue.n
	if waiting == 0 && v.mu.trims.n == 0 {
		return false
	}
	if v.mu.flying < smallBatches {
		return true
	}
	return v.mu.flying < maxBatches && waiting >= v.mu.log.MaxPages()
}

// fillLocked puts what waits into b and places it. False: nothing could be
// placed, and everything is back in its queue.
func (v *Volume) fillLocked(b *batch, a *after) bool {
	b.reset()
	most := v.mu.log.MaxPages()
	for v.mu.trims.n > 0 && b.notes() < raid.MaxNotes {
		op := v.mu.trims.pop()
		if !v.openNoteLocked(b) {
			// Pages can be stored instead of noted; trims wait for the cleaner.
			v.mu.trims.pushFront(op)
			break
		}
		b.addTrim(op)
	}
	for v.mu.queue.n > 0 && len(b.bufs) < most {
		head := v.mu.queue.head
		if head.filled && b.notes() < raid.MaxNotes && (b.noted || len(b.bufs)+1 < most) && v.openNoteLocked(b) {
			b.addFill(v.mu.queue.pop())
			continue
		}
		b.addPage(v.mu.queue.pop())
	}
	if len(b.bufs) == 0 {
		v.starvedLocked() // of notes
		return false
	}
	v.advanceLocked()
	if !v.mu.log.Reserve(len(b.bufs), false, &b.p) {
		noted := b.noted
		v.unfillLocked(b, 0)
		if !noted || v.mu.cleaners > 0 || !v.fillNoteLocked(b) {
			v.starvedLocked()
			return false
		}
	}
	if b.p.Pages < len(b.bufs) {
		// The group has no more rows: what is left over waits its turn.
		for i := len(b.bufs) - 1; i >= b.p.Pages; i-- {
			v.requeueLocked(b.bufs[i])
		}
		b.bufs, b.items = b.bufs[:b.p.Pages], b.items[:b.p.Pages]
	}
	b.addCopies()
	if b.noted {
		b.writeNote()
	}
	return true
}

// fillNoteLocked makes b a page of notes alone, of the trims and same-filled pages that
// wait, where there is no row for anything else and the cleaner finds none. False: as
// for fillLocked.
func (v *Volume) fillNoteLocked(b *batch) bool {
	b.reset()
	if !v.openNoteLocked(b) {
		return false
	}
	for v.mu.trims.n > 0 && b.notes() < raid.MaxNotes {
		b.addTrim(v.mu.trims.pop())
	}
	for h := v.mu.queue.head; h != nil && h.filled && b.notes() < raid.MaxNotes; h = v.mu.queue.head {
		b.addFill(v.mu.queue.pop())
	}
	if b.notes() > 0 && v.mu.log.ReserveNote(&b.p) {
		return true
	}
	v.unfillLocked(b, 0)
	return false
}

func (b *batch) reset() {
	b.bufs, b.items = b.bufs[:0], b.items[:0]
	b.noted, b.clean, b.err = false, nil, nil
	b.fills, b.trims = bufQueue{}, opList{}
	b.failed, b.lagged, b.promoted, b.left = 0, 0, 0, 0
}

// notes is the number of records that the note page has to hold.
func (b *batch) notes() int { return b.fills.n + b.trims.n }

// openNoteLocked makes sure that b has a note page, its first page, so that
// it is placed whatever else is not. False: the table of notes is full.
func (v *Volume) openNoteLocked(b *batch) bool {
	if b.noted {
		return true
	}
	id, ok := v.mu.log.NewNote(b.clean != nil)
	if !ok {
		return false
	}
	b.noteID, b.noted = id, true
	b.bufs = append(b.bufs, b.note)
	b.items = append(b.items, raid.Item{Kind: raid.ItemNotes, Note: id})
	if n := len(b.bufs) - 1; n > 0 {
		b.bufs[0], b.bufs[n] = b.bufs[n], b.bufs[0]
		b.items[0], b.items[n] = b.items[n], b.items[0]
	}
	return true
}

// writeNote records the batch's fills and trims under its Seq. Neighbours
// share a record.
func (b *batch) writeNote() {
	notes := raid.NewNotes(b.note.Page)
	var run raid.NoteRecord
	put := func() {
		if run.Count > 0 && !notes.Append(run) {
			panic("client: more notes than were counted")
		}
	}
	for buf := b.fills.head; buf != nil; buf = buf.next {
		if run.Count > 0 && buf.page == run.Start+raid.PageNo(run.Count) && buf.fill == run.Fill {
			run.Count++
			continue
		}
		put()
		run = raid.NoteRecord{Start: buf.page, Count: 1, Fill: buf.fill, Seq: b.p.Seq}
	}
	put()
	run = raid.NoteRecord{}
	for op := b.trims.head; op != nil; op = op.st.next {
		if !notes.Append(raid.NoteRecord{Start: op.st.page, Count: uint32(op.st.count), Seq: b.p.Seq}) {
			panic("client: more notes than were counted")
		}
	}
}

// unfillLocked puts the pages of b from index from on back where they came
// from, in their order.
func (v *Volume) unfillLocked(b *batch, from int) {
	for i := len(b.bufs) - 1; i >= from; i-- {
		if b.items[i].Kind == raid.ItemPage {
			v.requeueLocked(b.bufs[i])
		}
	}
	for buf := b.fills.pop(); buf != nil; buf = b.fills.pop() {
		v.requeueLocked(buf)
	}
	for op := b.trims.pop(); op != nil; op = b.trims.pop() {
		op.st.flying = false
		v.mu.trims.pushFront(op)
	}
	if b.noted {
		v.mu.log.FreeNote(b.noteID)
		b.noted = false
	}
}

func (v *Volume) requeueLocked(buf *Buf) {
	buf.state = bufQueued
	v.mu.queue.pushFront(buf)
}

// sendBatch is the part of a page-out that needs no lock.
func (v *Volume) sendBatch(b *batch) {
	if v.inplace != nil {
		v.sendInPlace(b)
		return
	}
	b.encode(v)
	b.send(v)
}

// batchPart takes a member's answer to its part of a batch.
func (v *Volume) batchPart(x *xfer) {
	b := x.batch
	a := v.lock()
	switch {
	case x.req.Err == nil:
	case x.second:
		b.lagged |= 1 << x.col
	default:
		b.failed |= 1 << x.col
		b.err = x.req.Err
	}
	b.left--
	v.xfers.put(x)
	if b.left == 0 {
		if v.inplace != nil {
			v.finishInPlaceLocked(b, a)
		} else {
			v.finishBatchLocked(b, a)
		}
	}
	v.unlock(a)
}

// finishBatchLocked commits a batch that all its members have, or gives its
// rows up and lets its pages be placed again.
func (v *Volume) finishBatchLocked(b *batch, a *after) {
	if b.clean == nil {
		v.mu.flying--
	}
	wrote, ok := b.settleColumns(v.mu.log, v.mu.log.MinAck())
	if v.mu.parting && wrote != uint32(1)<<v.geo.Members()-1 {
		ok = false // this client has ended the session: nobody can be said to be out
	}
	if !ok || !v.mu.log.MayCommit(&b.p) { // all may have it, and it may not be answered like this any more
		// Every transfer has completed, and the session with each member
		// whose outcome is unknown has ended: nothing of this can land later.
		v.mu.log.Abandon(&b.p)
		v.eraseSoonLocked()
		v.mu.count.abandoned++
		if b.clean != nil {
			v.cleanFailedLocked(b, a)
		} else if err := v.endedLocked(); err != nil {
			v.failBatchLocked(b, err, a)
			v.failWaitingLocked(err, a)
		} else {
			v.placeAgainLocked(b, a)
		}
		v.releaseBatchLocked(b)
		return
	}
	v.mu.count.batches++
	v.mu.count.batchPages += int64(b.p.Pages)
	v.mu.log.Commit(&b.p, b.items, wrote)
	if wrote != uint32(1)<<v.geo.Members()-1 {
		v.mu.count.degradedRows += int64(b.p.Rows)
		v.reportSoonLocked()
		if v.mu.log.UpMembers(b.p.Group)&^wrote != 0 {
			v.wakeRebuild() // a member came back while the batch was on its way
		}
	}
	if v.mu.log.UpPending(b.p.Group)&^b.p.Second != 0 {
		v.wakeRebuild() // likewise
	}
	if b.clean != nil {
		v.cleanWrittenLocked(b, a)
		v.releaseBatchLocked(b)
		return
	}
	v.mu.starved = 0
	if b.noted {
		v.commitNoteLocked(b, a)
	}
	for i, buf := range b.bufs {
		if b.items[i].Kind == raid.ItemPage {
			v.writtenLocked(buf, a)
		}
	}
	v.releaseBatchLocked(b)
	v.advanceLocked()
}

func (v *Volume) commitNoteLocked(b *batch, a *after) {
	for buf := b.fills.pop(); buf != nil; buf = b.fills.pop() {
		v.mu.log.CommitFill(b.noteID, buf.page, 1, buf.fill)
		v.mu.count.filledPages++
		v.writtenLocked(buf, a)
	}
	for op := b.trims.pop(); op != nil; op = b.trims.pop() {
		v.mu.log.CommitFill(b.noteID, op.st.page, op.st.count, 0)
		v.trimmedLocked(op, nil, a)
	}
	v.mu.log.SealNote(b.noteID)
}

// failBatchLocked answers everything in b with err.
func (v *Volume) failBatchLocked(b *batch, err error, a *after) {
	for i, buf := range b.bufs {
		if b.items[i].Kind == raid.ItemPage {
			v.failPageLocked(buf, err, a)
		}
	}
	for buf := b.fills.pop(); buf != nil; buf = b.fills.pop() {
		v.failPageLocked(buf, err, a)
	}
	for op := b.trims.pop(); op != nil; op = b.trims.pop() {
		v.trimmedLocked(op, err, a)
	}
	if b.noted {
		v.mu.log.FreeNote(b.noteID)
		b.noted = false
	}
}

func (v *Volume) releaseBatchLocked(b *batch) {
	clear(b.bufs)
	b.next = v.mu.batches
	v.mu.batches = b
}

// advanceLocked ends the read epoch when all page-ins of the previous one are
// over, so that dead rows become free, or are erased first.
func (v *Volume) advanceLocked() {
	for range 2 {
		if v.mu.log == nil || !v.mu.log.Limbo() || v.mu.reading[v.mu.epoch^1] != 0 {
			return
		}
		v.mu.log.Advance()
		v.mu.epoch ^= 1
		v.eraseSoonLocked()
	}
}

// failQueueLocked answers everything that waits to be placed with err.
func (v *Volume) failQueueLocked(err error, a *after) {
	for buf := v.mu.queue.pop(); buf != nil; buf = v.mu.queue.pop() {
		v.failPageLocked(buf, err, a)
	}
	for op := v.mu.trims.pop(); op != nil; op = v.mu.trims.pop() {
		v.trimmedLocked(op, err, a)
	}
	v.mu.starved = 0
}

// spaceError says why nothing can be placed.
func (v *Volume) spaceErrorLocked() error {
	if !v.mu.log.Writable() && v.mustAskLocked() {
		return fmt.Errorf("at most %d members of every group are up, and the metadata service does not answer, which has to note that first: %w", v.geo.M, ErrNoSpace)
	}
	if !v.mu.log.Writable() {
		return fmt.Errorf("every group has fewer than %d members: %w", max(v.geo.K, v.layout.MinAck), ErrNoSpace)
	}
	return fmt.Errorf("no free rows or notes, and cleaning finds none: %w", ErrNoSpace)
}
