package client

import (
	"context"
	"fmt"
	"time"

	"dmps/raid"
)

// The view of a group says which members belong to it, and is stored at these
// members (raid/log_view.go). The eraser writes it, since what members keep of
// batches that were given up is what views change for.

// viewing is a record on its way. Its transfers and its headers are its own for
// ever, as those of an erasure.
type viewing struct {
	raid.View
	xfers []*xfer // by column; behind them likewise those of pending members
	sent  uint64
	mem   *Buf // the record in the two sizes that headers have
}

// viewSide is how many records are on their way at a time.
const viewSide = 4

// parityAt is where in mem the record for parity columns lies.
const parityAt = 1024

func (v *Volume) newViewing(mem *Buf) *viewing {
	w := &viewing{mem: mem}
	for range 2 * v.geo.Members() {
		x := v.xfers.make()
		x.wait = make(chan error, 1)
		w.xfers = append(w.xfers, x)
	}
	return w
}

// encode makes the headers of the record.
func (w *viewing) encode(v *Volume) {
	h := v.mu.log.ViewHeader(&w.View)
	h.Put(w.header(v, 0), nil)
	if last := w.header(v, raid.Col(v.geo.Members()-1)); len(last) > raid.HeaderSize {
		h.Put(last, make([]raid.RowEntry, v.geo.K))
	}
}

func (w *viewing) header(v *Volume, c raid.Col) []byte {
	n := v.layout.HeaderBytes(c)
	if n == raid.HeaderSize {
		return w.mem.Page[:n]
	}
	return w.mem.Page[parityAt:][:n]
}

// writeViews writes records that groups are waiting for, and waits for the
// outcome. some is false when there were none, ok when a member failed.
func (v *Volume) writeViews(ctx context.Context, side []*viewing) (some, ok bool) {
	n := v.startViews(side)
	if n == 0 {
		return false, true
	}
	v.kickAll()
	v.drainDead()
	ok = true
	for _, w := range side[:n] {
		done := w.sent
		for c, x := range w.xfers {
			if w.sent&(1<<c) != 0 && v.outcome(ctx, x) != nil {
				done &^= 1 << c
				ok = false
			}
		}
		// Nothing lands later: as after an erasure.
		a := v.lock()
		all := uint64(1)<<v.geo.Members() - 1
		v.mu.log.Installed(&w.View, uint32(done&all), uint32(done>>v.geo.Members()))
		v.mu.count.views++
		v.reportSoonLocked()
		v.opGoneLocked()
		v.unlock(a)
	}
	v.pump() // the group may be writable now
	return true, ok
}

// startViews sends as many records as there are places for, and tells how many.
func (v *Volume) startViews(side []*viewing) int {
	a := v.lock()
	defer v.unlock(a)
	for n, w := range side {
		if v.endedLocked() != nil || !v.mu.log.TakeView(&w.View) {
			return n
		}
		v.mu.ops++ // the watch looks after it, and Close waits
		w.encode(v)
		w.sent = 0
		for c, x := range w.xfers {
			col, who, m := raid.Col(c), w.To, (*member)(nil)
			if c < v.geo.Members() {
				m = v.member(w.Group, col)
			} else {
				col -= raid.Col(v.geo.Members())
				who, m = w.Second, v.mover(w.Group, col)
			}
			if who&(1<<col) == 0 || m.peer == nil {
				continue
			}
			w.sent |= 1 << c
			x.req.Segs, x.req.Err = x.segs[:0], nil
			x.col = col
			x.req.Op = opWrite
			x.req.Chunk = uint64(m.chunk)
			x.add(w.Index, w.header(v, col), nil)
			m.peer.send(x)
		}
	}
	return len(side)
}

// settleRecovery ends what the recovery has begun: rows that were never answered are
// erased, those that too few members are known to have are filled or moved, and each
// group gets a view of this client. Until then the log takes no page-outs, and no page
// is served: what a later client makes of these rows could differ.
func (v *Volume) settleRecovery(ctx context.Context) error {
	v.fillUnsure(ctx, false)
	v.mu.Lock()
	v.mu.settling = true
	if v.mustAskLocked() {
		v.askNowLocked()
	}
	v.mu.Unlock()
	type left struct {
		void, unsure uint64
		views        int
	}
	var before left
	since := time.Now()
	for {
		a := v.lock()
		v.advanceLocked() // moves need room
		var l left
		l.void, l.unsure, l.views = v.mu.log.Unsettled()
		err := v.mu.closed
		done := l == left{}
		if done && err == nil {
			v.mu.log.Begin()
			v.mu.settling = false
		}
		ask := !done && v.mustAskLocked()
		comparing := v.comparingLocked()
		v.unlock(a)
		switch {
		case err != nil:
			return err
		case done:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case l != before || comparing:
			before, since = l, time.Now()
		case time.Since(since) > v.cfg.Patience:
			if v.cfg.AcceptLoss {
				v.beginUnsettled(l.void, l.unsure, l.views)
				return nil
			}
			if ask {
				return fmt.Errorf("the metadata service has to note which members miss rows, and has not: it must be reachable to attach a volume of which members are away")
			}
			return fmt.Errorf("%d rows that were never answered cannot be erased, %d cannot be moved, and %d groups cannot be taken over: fewer than %d of their members are up for that: bring back the memory servers that are away, or wait for the network; one that is restarted is empty", l.void, l.unsure, l.views, max(v.geo.K, v.geo.M+1))
		}
		stuck := time.Since(since) > v.cfg.Patience/2
		if l.unsure > 0 && stuck { // no room
			a := v.lock()
			v.mu.log.SpareUnsure()
			v.unlock(a)
		}
		filled := (l.unsure > 0 || stuck) && v.fillUnsure(ctx, stuck) // members that are back, too
		v.pump()                                                      // moves
		erased, ok := v.erase(ctx, v.erasings)
		wrote, ok2 := false, true
		if !comparing {
			wrote, ok2 = v.writeViews(ctx, v.viewings)
		}
		if !erased && !wrote && !filled || !ok || !ok2 {
			rest(ctx, time.Millisecond)
		}
	}
}

// beginUnsettled goes on with groups that cannot be written, which the user has
// accepted: they are read.
func (v *Volume) beginUnsettled(void, unsure uint64, views int) {
	a := v.lock()
	v.mu.log.BeginAnyway()
	v.mu.settling = false
	v.unlock(a)
	v.log.Error("groups cannot be written: what they hold is served as it was found, and may be found otherwise by the next client",
		"groups", views, "rows_not_erased", void, "rows_not_moved", unsure)
}

// askNowLocked has the lease renewed at once, with what meta has to note.
func (v *Volume) askNowLocked() {
	select {
	case v.urgent <- struct{}{}:
	default:
	}
}
