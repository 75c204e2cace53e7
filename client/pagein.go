package client

import (
	"fmt"
	"math/bits"

	"dmps/raid"
)

// The path of a page-in:
//
//	startRead     buffers, then for every page a unit
//	router.route  pending table: it waits; map; neighbours on one member become one run
//	runDone       verified by header and checksum; answered
//
// and where that does not work: rescue.go (from K other members), stall.go
// (too few members are up), watch.go (a member is slow).

// run is a page-in of up to 32 pages from one chunk of one member.
type run struct {
	x     *xfer
	grp   raid.GroupID
	col   raid.Col
	n     int
	units [raid.MaxBatchPages]*unit
	epoch uint8 // read epoch of the look-up
	next  *run
}

// startRead gets buffers for an accepted OpRead and sends it on its way.
func (v *Volume) startRead(op *Op) {
	_, n := span(op)
	if n == 0 {
		a := v.lock()
		a.done = append(a.done, op)
		v.unlock(a)
		return
	}
	if n > min(MaxOpPages, v.user.size) { // no buffers would ever do
		v.answer(op, fmt.Errorf("read of %d bytes: %w", op.Len, ErrRange))
		return
	}
	bufs, ok := v.user.tryGet(n, op.Bufs[:0])
	if ok {
		op.Bufs = bufs
		v.read(op)
		return
	}
	op.st.wait = waiter{n: n, bufs: op.Bufs[:0], op: op, granted: v.granted.read}
	if err := v.user.wait(&op.st.wait); err != nil {
		v.answer(op, err)
	}
}

// readGranted goes on with a read that had to wait for buffers.
func (v *Volume) readGranted(w *waiter) {
	op := w.op
	if w.bufs == nil {
		v.answer(op, ErrClosed)
		return
	}
	op.Bufs = w.bufs
	v.read(op)
	v.pump()
	v.flushHooks()
}

// answer ends an accepted op that has no parts under way.
func (v *Volume) answer(op *Op, err error) {
	a := v.lock()
	op.Err = err
	op.Bufs = op.Bufs[:0]
	a.done = append(a.done, op)
	v.unlock(a)
}

func (v *Volume) read(op *Op) {
	first, n := span(op)
	a := v.lock()
	op.st.left = n
	r := router{v: v, a: a}
	now := v.clock()
	for i := range n {
		u := v.newUnitLocked()
		u.op, u.i, u.page, u.buf, u.since = op, i, first+raid.PageNo(i), op.Bufs[i], now
		r.route(u)
	}
	r.flush()
	v.unlock(a)
}

// router turns units into transfers; neighbours share one. It is used under
// the lock, and flush ends it.
type router struct {
	v      *Volume
	a      *after
	run    *run
	rescue *rescue
}

// route finds out where u is and sends it there. The unit may be delivered
// before route returns.
func (r *router) route(u *unit) {
	v := r.v
	if u.op != nil && !u.move && !u.raw {
		if b := v.mu.pending.newest(u.page); b != nil {
			r.fromPending(u, b)
			return
		}
	}
	if u.raw {
		p := v.mu.log.Place(u.slot)
		u.grp, u.idx, u.tag = p.Group, p.Index, p.Tag
		r.stored(u)
		return
	}
	if v.inplace != nil {
		g, i := v.inplace.Locate(u.page)
		u.grp, u.idx, u.kind = g, i, raid.KindPage
		if p := v.member(g, 0).peer; p == nil || p.state != peerUp {
			v.stallLocked(u, r.a)
			return
		}
		r.direct(u, 0)
		return
	}
	if r.lookup(u) {
		r.stored(u)
	}
}

// stored sends u, whose place is known, to its member or around it.
func (r *router) stored(u *unit) {
	v := r.v
	up := v.mu.log.Survivors(u.grp, u.idx) &^ u.avoid
	if v.geo.Mirror() {
		if up == 0 {
			v.stallLocked(u, r.a)
			return
		}
		r.direct(u, pick(up, uint32(u.idx)/raid.MaxBatchPages))
		return
	}
	col := v.mu.log.Place(u.slot).Col
	if up&(1<<col) != 0 {
		r.direct(u, col)
		return
	}
	r.decode(u, up, false)
}

// pick chooses one of the members in mask, always the same one for the same n.
func pick(mask uint32, n uint32) raid.Col {
	for range n % uint32(bits.OnesCount32(mask)) {
		mask &= mask - 1
	}
	return raid.Col(bits.TrailingZeros32(mask))
}

// fromPending lets u wait for b, the newest version of its page, which is under
// way. It is not delivered before it is stored: a client that dies may take what
// was not stored with it, and then nobody may have seen it.
func (r *router) fromPending(u *unit, b *Buf) {
	r.v.mu.count.pendingHits++
	u.next = b.reads
	b.reads = u
}

// lookup asks the map. False: the page has no slot, and u is done.
func (r *router) lookup(u *unit) bool {
	v := r.v
	if u.move {
		c, live := v.mu.log.Content(u.slot)
		if !live {
			v.failUnitLocked(u, errMoved, r.a)
			return false
		}
		u.kind, u.page = c.Kind, c.Page
	} else {
		if !v.mayReadLocked(u.page) {
			v.unsureLocked(u)
			return false
		}
		e := v.mu.log.Lookup(u.page)
		if e.Kind != raid.Stored {
			fill := byte(0)
			if e.Kind == raid.Filled {
				fill = e.Fill
			}
			if u.buf != nil {
				r.a.free = append(r.a.free, u.buf)
				u.buf = nil
			}
			v.deliverLocked(u, &v.consts.bufs[fill], r.a)
			return false
		}
		if e.Slot != u.slot {
			u.avoid, u.shelf = 0, shelf{}
		}
		u.slot, u.kind = e.Slot, raid.KindPage
	}
	p := v.mu.log.Place(u.slot)
	u.grp, u.idx, u.tag = p.Group, p.Index, p.Tag
	return true
}

// direct adds u to the current run, or starts another one.
func (r *router) direct(u *unit, col raid.Col) {
	v := r.v
	if r.run == nil || r.run.n == raid.MaxBatchPages || r.run.grp != u.grp || r.run.col != col {
		r.flushRun()
		r.run = v.newRunLocked(u.grp, col)
	}
	q := r.run
	q.units[q.n] = u
	q.n++
	u.refs++
	q.x.add(u.idx, u.buf.hdr[:raid.HeaderSize], u.buf.Page)
}

func (v *Volume) newRunLocked(g raid.GroupID, col raid.Col) *run {
	q := v.mu.runs
	if q == nil {
		q = &run{}
	} else {
		v.mu.runs = q.next
	}
	q.grp, q.col, q.n, q.next = g, col, 0, nil
	q.epoch = v.mu.epoch
	v.mu.reading[q.epoch]++
	q.x = v.xfers.get()
	q.x.run, q.x.col = q, col
	q.x.req.Op = opRead
	q.x.req.Chunk = uint64(v.member(g, col).chunk)
	return q
}

func (r *router) flushRun() {
	if r.run == nil {
		return
	}
	v := r.v
	v.mu.count.reads++
	v.mu.count.readPages += int64(r.run.n)
	v.member(r.run.grp, r.run.col).peer.send(r.run.x)
	r.run = nil
}

// flush sends what was collected.
func (r *router) flush() {
	r.flushRun()
	r.flushRescue()
}

// runDone takes a completed run.
func (v *Volume) runDone(x *xfer) {
	q := x.run
	var good uint32
	if x.req.Err == nil {
		for i, u := range q.units[:q.n] {
			if v.verify(u, x.segs[i].Header, x.segs[i].Page) {
				good |= 1 << i
			}
		}
	}
	a := v.lock()
	r := router{v: v, a: a}
	v.mu.reading[q.epoch]--
	// What it says of a member that has left meanwhile is of no concern.
	judged := x.req.Err == nil && v.member(q.grp, q.col).chunk == raid.ChunkID(x.req.Chunk)
	for i, u := range q.units[:q.n] {
		q.units[i] = nil
		u.refs--
		switch {
		case u.delivered: // the second way was faster
			if judged && good&(1<<i) == 0 {
				v.badSlotLocked(u, q.col)
			}
			if u.buf != nil {
				a.free = append(a.free, u.buf)
				u.buf = nil
			}
			v.settleLocked(u)
		case good&(1<<i) != 0:
			v.deliverLocked(u, u.buf, a)
		default:
			if judged {
				v.badLocked(u, q.col)
			}
			if u.refs == 0 { // else the second way decides
				v.againLocked(&r, u)
			}
		}
	}
	r.flush()
	q.x = nil
	q.next = v.mu.runs
	v.mu.runs = q
	v.xfers.put(x)
	v.advanceLocked()
	v.unlock(a)
}

// verify checks a page that came from its own member against what the map
// said when it was looked up (I2). It needs no lock: u does not change while a
// transfer points at it.
func (v *Volume) verify(u *unit, header, page []byte) bool {
	h, err := raid.ParseHeader(header)
	if err != nil || h.Holds() && h.Site != v.site(u.grp, u.idx) {
		return false
	}
	if v.inplace != nil {
		switch {
		case h.Kind == raid.KindEmpty:
			clear(page)
			return true
		case h.Page != u.page:
			return false
		case h.Kind == raid.KindFill:
			fillPage(page, h.Fill)
			return true
		}
		return h.Kind == raid.KindPage && raid.Checksum(page) == h.CRC
	}
	return h.Kind == u.kind && raid.TagOf(h.Seq) == u.tag &&
		(h.Kind == raid.KindNotes || h.Page == u.page) && raid.Checksum(page) == h.CRC
}

func fillPage(page []byte, v byte) {
	if v == 0 {
		clear(page)
		return
	}
	for i := range page {
		page[i] = v
	}
}

// badLocked notes that member c gave something else for u than what was
// written there, and has u go elsewhere. If the page has moved meanwhile, that
// is how it should be.
func (v *Volume) badLocked(u *unit, c raid.Col) {
	if v.badSlotLocked(u, c) {
		u.avoid |= 1 << c
		u.tries++
	}
}

// badSlotLocked notes that member c's slot of u's row is not what was written
// there; false: the row is not what it was when u was looked up.
func (v *Volume) badSlotLocked(u *unit, c raid.Col) bool {
	if v.inplace == nil && !v.stillThereLocked(u) {
		return false
	}
	if v.inplace == nil && v.mu.log.Holders(u.grp, u.idx)&(1<<c) == 0 {
		return true // known: another read met it, or a scrub, or the member was replaced
	}
	v.mu.count.corrupt++
	m := v.member(u.grp, c)
	v.countBadSlotLocked(m.peer.id)
	if v.inplace == nil {
		// The row has lost this member: the rebuild driver has it filled from
		// the others, or the cleaner moves its pages.
		v.mu.log.SetMissed(u.grp, u.idx, c)
		v.healthChangedLocked()
	}
	v.log.Error("a stored page does not match its header",
		"page", u.page, "server", m.peer.id, "group", u.grp, "slot", u.idx, "column", c)
	return true
}

// countBadSlotLocked counts a slot that a server did not keep.
func (v *Volume) countBadSlotLocked(id raid.ServerID) {
	if v.mu.badSlots == nil {
		v.mu.badSlots = make(map[raid.ServerID]int64)
	}
	v.mu.badSlots[id]++
}

// stillThereLocked reports whether u's slot still holds what it was looked up
// for.
func (v *Volume) stillThereLocked(u *unit) bool {
	if u.raw {
		return true
	}
	if u.move {
		_, live := v.mu.log.Content(u.slot)
		return live && v.mu.log.Place(u.slot).Tag == u.tag
	}
	e := v.mu.log.Lookup(u.page)
	return e.Kind == raid.Stored && e.Slot == u.slot && v.mu.log.Place(u.slot).Tag == u.tag
}

// maxTries bounds how often one page is looked for in other places.
const maxTries = 16

// againLocked looks for u once more.
func (v *Volume) againLocked(r *router, u *unit) {
	if err := v.endedLocked(); err != nil {
		v.failUnitLocked(u, err, r.a)
		return
	}
	if v.inplace == nil && !v.stillThereLocked(u) {
		u.tries = 0 // what failed was somewhere else
	}
	if u.tries > maxTries || (v.inplace != nil && u.tries > 2) {
		v.mu.count.lostPageIns++
		v.failUnitLocked(u, fmt.Errorf("page %d: no member gives what was written: %w", u.page, ErrLost), r.a)
		return
	}
	r.route(u)
}
