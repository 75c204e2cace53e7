package client

import (
	"slices"

	"dmps/raid"
)

// cleaning is one batch of the cleaner: live pages of rows that have few, read
// and written again to new rows, so that the old ones become free. The same
// work heals rows that a member misses although it is up, and, before a volume is
// ready, moves rows that the recovery is not sure of and that were not filled (settle.go).
type cleaning struct {
	op    Op
	done  func(*Op) // v.cleanRead, bound once: binding allocates
	slots []raid.Slot
	recs  []movedNote
	epoch uint8 // read epoch of the victims: none of their slots is reused before the moves are committed
	on    bool  // it has victims
	next  *cleaning
}

func (v *Volume) newCleaning(next *cleaning) *cleaning {
	pages := v.mu.log.MaxPages()
	c := &cleaning{
		done:  v.cleanRead,
		slots: make([]raid.Slot, 0, pages),
		recs:  make([]movedNote, 0, 2*raid.MaxNotes), // one note too many is looked at before it is left
		next:  next,
	}
	c.op.Bufs = make([]*Buf, 0, pages)
	v.cleanings = append(v.cleanings, c)
	return c
}

// othersLocked leaves those slots out of c that another cleaning moves already, and all
// when too little is left to gain a row. The copy that was committed last would be the
// one that is dead, and have the higher number: the next client would take it for the
// page, and nobody looks after what is dead.
func (v *Volume) othersLocked(c *cleaning) {
	had := len(c.slots)
	for _, o := range v.cleanings {
		if o.on && o != c {
			c.slots = slices.DeleteFunc(c.slots, func(s raid.Slot) bool { return slices.Contains(o.slots, s) })
		}
	}
	if len(c.slots) == had {
		return
	}
	rows := 0
	for i, s := range c.slots {
		if i == 0 || s/raid.Slot(v.geo.K) != c.slots[i-1]/raid.Slot(v.geo.K) {
			rows++
		}
	}
	if rows*v.geo.K < len(c.slots)+v.geo.K {
		c.slots = c.slots[:0]
	}
}

// movedNote is a record that goes to another note page. It keeps its Seq.
type movedNote struct {
	from raid.Slot
	rec  raid.NoteRecord
}

// nextCleanLocked goes on with cleaning: a batch of pages that were read, or
// nil after perhaps starting to read more.
func (v *Volume) nextCleanLocked(a *after) *batch {
	for v.mu.cleanRead != nil {
		c := v.mu.cleanRead
		v.mu.cleanRead = c.next
		c.next = nil
		if b := v.cleanBatchLocked(c); b != nil {
			return b
		}
		// Nothing of it could be moved, as when all of it is being written anew: the
		// same victims would be read again and again.
		v.mu.cleanAfter = nanotime() + int64(watchEvery)
		v.endCleanLocked(c, a)
	}
	for v.mu.cleaners < cleanBatches && v.mayCleanLocked() && v.startCleanLocked(a) {
	}
	return nil
}

// mayCleanLocked: a volume that is being closed is cleaned only for writes that
// were accepted and wait for rows.
func (v *Volume) mayCleanLocked() bool {
	return v.mu.closed == nil || v.mu.closed == ErrClosed && v.mu.starved != 0 && v.mu.over == nil
}

// startCleanLocked starts reading victims. False: there is no need, or nothing
// to gain, or no buffers.
func (v *Volume) startCleanLocked(a *after) bool {
	if nanotime() < v.mu.cleanAfter || !v.mu.log.Room() {
		return false // rows that were given up have to be erased first
	}
	need := v.mu.log.CleanNeed()
	if need == raid.CleanNone {
		v.mu.cleaning = false
	}
	if need >= raid.CleanSoon {
		v.mu.cleaning = true
	}
	heal := v.mu.healing && v.mu.cleaners == 0 && v.mu.closed == nil
	tidy := v.mu.tidy.on && v.mu.closed == nil
	settle := v.mu.settling && v.mu.cleaners == 0 // then nothing else
	if settle {
		heal, tidy, v.mu.cleaning = false, false, false
	}
	if !v.mu.cleaning && !heal && !settle && !tidy {
		return false
	}
	c := v.mu.cleanIdle
	if c == nil {
		c = v.newCleaning(nil)
	} else {
		v.mu.cleanIdle = c.next
		c.next = nil
	}
	c.slots, c.recs = c.slots[:0], c.recs[:0]
	if settle {
		c.slots = v.mu.log.UnsureVictims(c.slots)
	}
	if len(c.slots) == 0 && v.mu.cleaning {
		c.slots = v.mu.log.Victims(c.slots)
	}
	if len(c.slots) == 0 && tidy {
		c.slots = v.tidyVictimsLocked(c.slots)
	}
	if len(c.slots) == 0 && heal {
		c.slots = v.mu.log.HealVictims(c.slots)
		v.mu.healing = len(c.slots) > 0
	}
	v.othersLocked(c)
	var ok bool
	if len(c.slots) > 0 {
		c.op.Bufs, ok = v.moves.tryGet(len(c.slots), c.op.Bufs[:0])
	}
	if !ok {
		c.next = v.mu.cleanIdle
		v.mu.cleanIdle = c
		return false
	}
	v.mu.cleaners++
	c.on = true
	c.epoch = v.mu.epoch
	v.mu.reading[c.epoch]++
	v.mu.ops += 2 // Close waits for both halves: unlock counts the first when it is read, endClean the other
	c.op = Op{Kind: opClean, Done: c.done, Bufs: c.op.Bufs, User: c}
	c.op.st = opState{start: nanotime(), left: len(c.slots), clean: c}
	r := router{v: v, a: a}
	now := v.clock()
	for i, s := range c.slots {
		u := v.newUnitLocked()
		u.op, u.i, u.buf, u.slot, u.move, u.since = &c.op, i, c.op.Bufs[i], s, true, now
		r.route(u)
	}
	r.flush()
	return true
}

// opClean is the cleaner's own kind of Op.
const opClean OpKind = 255

// cleanRead takes a cleaning whose pages have all been read, or were found to
// have moved.
func (v *Volume) cleanRead(op *Op) {
	a := v.lock()
	c := op.User.(*cleaning)
	c.next = v.mu.cleanRead
	v.mu.cleanRead = c
	v.unlock(a)
}

// cleanBatchLocked makes a batch of what is still current in c. Nil: nothing
// is, or there is no room.
func (v *Volume) cleanBatchLocked(c *cleaning) *batch {
	b := v.mu.batches
	if b == nil || !v.mayCleanLocked() {
		return nil
	}
	b.reset()
	b.clean = c
	most, last := v.mu.log.MoveRoom(min(len(c.slots), v.mu.log.MaxPages()))
	emptied, ok := v.gatherLocked(b, c, most, last)
	if !ok || len(b.bufs) == 0 || last && emptied*v.geo.K < len(b.bufs) || !v.mu.log.Reserve(len(b.bufs), true, &b.p) {
		v.dropCleanLocked(b)
		return nil
	}
	b.addCopies()
	if b.noted {
		notes := raid.NewNotes(b.note.Page)
		for _, m := range c.recs {
			if !notes.Append(m.rec) {
				panic("client: more notes than were counted")
			}
		}
	}
	v.mu.batches = b.next
	b.next = nil
	b.aimLocked(v)
	return b
}

// gatherLocked puts up to most pages of c into b, row by row, and tells of how many rows
// nothing is left then. With whole it leaves out rows of which something has to stay.
// False: a note page cannot be read.
func (v *Volume) gatherLocked(b *batch, c *cleaning, most int, whole bool) (emptied int, ok bool) {
	row := func(i int) raid.Slot { return c.slots[i] / raid.Slot(v.geo.K) }
	for from, to := 0, 0; from < len(c.slots) && (len(b.bufs) < most || b.noted); from = to {
		for to = from; to < len(c.slots) && row(to) == row(from); to++ {
		}
		if whole && v.staysLocked(c, from, to) {
			continue
		}
		moved := 0
		for i := from; i < to; i++ {
			buf := c.op.Bufs[i]
			what, live := v.mu.log.Content(c.slots[i])
			switch {
			case buf == nil || !live:
			case what.Kind == raid.KindNotes:
				taken, ok := v.moveNoteLocked(b, c, c.slots[i], what.Note, buf.Page, most)
				if !ok {
					return 0, false
				}
				if taken {
					moved++
				}
			case len(b.bufs) < most && !v.supersededLocked(what.Page):
				b.bufs = append(b.bufs, buf)
				b.items = append(b.items, raid.Item{Kind: raid.ItemMove, Page: what.Page, From: c.slots[i]})
				moved++
			}
		}
		if moved > 0 && moved == v.mu.log.LiveIn(c.slots[from]) {
			emptied++
		}
	}
	return emptied, true
}

// staysLocked reports whether some of the slots from..to of c are live and cannot be
// moved now.
func (v *Volume) staysLocked(c *cleaning, from, to int) bool {
	for i := from; i < to; i++ {
		what, live := v.mu.log.Content(c.slots[i])
		if live && (c.op.Bufs[i] == nil || what.Kind == raid.KindPage && v.supersededLocked(what.Page)) {
			return true
		}
	}
	return false
}

// supersededLocked reports whether page p must not be moved, since a newer version is
// in a batch: its number may be lower than that of the move. One that waits to be placed
// will have a higher one. Its page is moved only when rows are short, since that write
// may wait for this very move.
func (v *Volume) supersededLocked(p raid.PageNo) bool {
	if b := v.mu.pending.oldest(p); b != nil && (b.state == bufInFlight || v.mu.starved == 0) {
		return true
	}
	for _, op := range v.mu.active {
		if op.st.covers(p) && (op.st.flying || v.mu.starved == 0) {
			return true
		}
	}
	return false
}

// moveNoteLocked takes over the current records of note n in slot s, if they fit, and tells
// whether it did. Not ok: the page is no note page, which its checksum said it was.
func (v *Volume) moveNoteLocked(b *batch, c *cleaning, s raid.Slot, n raid.NoteID, page []byte, most int) (taken, ok bool) {
	notes, err := raid.ParseNotes(page)
	if err != nil {
		v.log.Error("a note page cannot be read: its row is not cleaned", "err", err)
		return false, false
	}
	had := len(c.recs)
	for i := range notes.Len() {
		rec := notes.At(i)
		start, live := v.mu.log.NoteRun(n, rec.Fill, rec.Start, uint64(rec.Count))
		if live == 0 {
			continue
		}
		// Pages in the middle that were overwritten stay in the record: what
		// they are now has a higher number, and moving skips them. Cut out of
		// it, a record could become more than fit a note.
		rec.Count -= uint32(start - rec.Start)
		rec.Start = start
		c.recs = append(c.recs, movedNote{from: s, rec: rec})
	}
	full := !b.noted && len(b.bufs) >= most
	if len(c.recs) > raid.MaxNotes || full || (len(c.recs) > had && !v.openNoteLocked(b)) {
		c.recs = c.recs[:had] // another time
		return false, true
	}
	return true, true
}

func (v *Volume) dropCleanLocked(b *batch) {
	if b.noted {
		v.mu.log.FreeNote(b.noteID)
		b.noted = false
	}
	b.clean = nil
	clear(b.bufs)
}

// cleanWrittenLocked ends a cleaning whose batch was committed.
func (v *Volume) cleanWrittenLocked(b *batch, a *after) {
	if b.noted {
		for _, m := range b.clean.recs {
			v.mu.log.MoveFill(m.from, b.noteID, m.rec.Start, uint64(m.rec.Count), m.rec.Fill)
		}
		v.mu.log.SealNote(b.noteID)
	}
	v.mu.count.cleanedPages += int64(b.p.Pages)
	v.endCleanLocked(b.clean, a)
}

// cleanFailedLocked ends a cleaning whose batch some member does not have. The
// map still says the old places: nothing is lost, and nothing needs a retry.
func (v *Volume) cleanFailedLocked(b *batch, a *after) {
	c := b.clean
	v.dropCleanLocked(b)
	v.endCleanLocked(c, a)
}

func (v *Volume) endCleanLocked(c *cleaning, a *after) {
	v.mu.cleaners--
	c.on = false
	v.mu.reading[c.epoch]--
	v.advanceLocked()
	v.opGoneLocked()
	for _, b := range c.op.Bufs {
		if b != nil { // nil: the page had moved
			a.free = append(a.free, b)
		}
	}
	c.next = v.mu.cleanIdle
	v.mu.cleanIdle = c
}
