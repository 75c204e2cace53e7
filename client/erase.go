package client

import (
	"context"
	"time"

	"dmps/internal/jitter"
	"dmps/raid"
	"dmps/transport"
)

// The eraser works off the rows that raid.Log has doomed: dead rows whose old
// headers a recovery could take for something (raid/log_erase.go says which).
// It writes headers of erased slots over them at all members that are up; then they are
// free. A healthy volume has none.
//
// What a member that is down keeps is erased when it returns: by the eraser,
// which is told the rows by raid.Log; or, if no recovery has seen what it holds,
// by the comparison (compare.go), before its session is used. Until nothing is
// left to erase the group counts as degraded.

const (
	// eraseSide is how many erasures, of up to 32 rows each, are on their way at
	// a time.
	eraseSide = 4
	// eraseRest is how long the eraser lets rows gather while nobody waits for
	// them, and rests after a member could not be reached.
	eraseRest = 5 * time.Millisecond
)

// erasing is one erasure on its way. Its transfers and headers are its own for ever:
// rows are erased while others wait for them, so nothing is allocated then.
type erasing struct {
	raid.Erasure
	xfers []*xfer // by column; behind them likewise those of pending members
	sent  uint64  // those of them that are on their way, by index
	mem   []*Buf  // headers of the erased slots: in the first one those of data columns, then those of parity
}

// erasingBufs is how many buffers the headers of an erasure take.
func erasingBufs(g raid.Geometry) int {
	per := raid.PageSize / raid.HeaderBytes(g, raid.Col(g.Members()-1))
	return 1 + (raid.MaxBatchPages+per-1)/per
}

func (v *Volume) newErasing(mem []*Buf) *erasing {
	e := &erasing{mem: mem}
	for range 2 * v.geo.Members() {
		x := v.xfers.make()
		x.wait = make(chan error, 1)
		e.xfers = append(e.xfers, x)
	}
	return e
}

// eraseSoonLocked wakes the eraser if there is anything for it.
func (v *Volume) eraseSoonLocked() {
	if v.mu.log == nil || v.mu.log.Doomed() == 0 && !v.mu.log.ViewDue() {
		return
	}
	select {
	case v.eraseBell <- struct{}{}:
	default:
	}
}

// eraseAll runs the eraser until the volume is closed.
func (v *Volume) eraseAll(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-v.eraseBell:
		}
		if !v.eraseNow() {
			rest(ctx, eraseRest)
		}
		for ctx.Err() == nil {
			// Rows that were given up may wait for a view without those who keep them.
			wrote, ok := v.writeViews(ctx, v.viewings)
			erased, ok2 := v.erase(ctx, v.erasings)
			if !wrote && !erased {
				break
			}
			if !ok || !ok2 {
				rest(ctx, eraseRest)
			}
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(jitter.Around(d)):
	}
}

// eraseLast gives the eraser the time to finish before the volume is closed, as
// long as it gets on: what it leaves, the next client has to.
func (v *Volume) eraseLast(ctx context.Context) {
	left, patience, renewed := ^uint64(0), 0, false
	for patience < 20 && ctx.Err() == nil {
		a := v.lock()
		v.advanceLocked()
		now := v.mu.log.Doomed()
		if now == 0 && !renewed {
			renewed = true
			v.mu.log.RenewViews()
		}
		due := v.mu.log.ViewDue()
		if ended := v.endedLocked() != nil; ended || now == 0 && !due {
			v.unlock(a)
			return
		}
		v.eraseSoonLocked()
		v.unlock(a)
		if patience++; now < left {
			left, patience = now, 0
		}
		rest(ctx, eraseRest)
	}
}

// eraseNow reports whether it is not worth while to let rows gather.
func (v *Volume) eraseNow() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.log.Doomed() >= raid.MaxBatchPages || v.mu.log.ViewDue() || !v.mu.log.Sure() || v.mu.starved != 0 || v.mu.log.CleanNeed() >= raid.CleanSoon
}

// erase erases rows at their members, and waits for the outcome. some is false
// when there were none, ok when a member failed.
func (v *Volume) erase(ctx context.Context, side []*erasing) (some, ok bool) {
	n := v.startErasing(side)
	if n == 0 {
		return false, true
	}
	v.kickAll()
	v.drainDead()
	ok = true
	for _, e := range side[:n] {
		done := e.sent
		for c, x := range e.xfers {
			if e.sent&(1<<c) != 0 && v.outcome(ctx, x) != nil {
				done &^= 1 << c
				ok = false
			}
		}
		// Every transfer has completed, and each session in which one failed has
		// ended or refused it: nothing lands later.
		a := v.lock()
		all := uint64(1)<<v.geo.Members() - 1
		v.mu.log.Erased(&e.Erasure, uint32(done&all), uint32(done>>v.geo.Members()))
		v.mu.count.erasedRows += int64(e.Rows)
		if v.mu.log.Doomed() == 0 {
			v.reportSoonLocked()
		}
		v.opGoneLocked()
		v.unlock(a)
	}
	v.pump() // somebody may have waited for these rows
	return true, ok
}

// startErasing sends as many erasures as there are places for, and tells how
// many these are.
func (v *Volume) startErasing(side []*erasing) int {
	a := v.lock()
	defer v.unlock(a)
	for n, e := range side {
		if v.endedLocked() != nil || !v.mu.log.TakeDoomed(&e.Erasure) {
			return n
		}
		v.mu.ops++ // the watch looks after it, and Close waits
		e.sent = 0
		e.encode(v)
		for c, x := range e.xfers {
			col, who, m := raid.Col(c), e.Members, (*member)(nil)
			if c < v.geo.Members() {
				m = v.member(e.Group, col)
			} else {
				col -= raid.Col(v.geo.Members())
				who, m = e.Second, v.mover(e.Group, col)
			}
			if who&(1<<col) == 0 || m.peer == nil {
				continue
			}
			e.sent |= 1 << c
			x.req.Segs, x.req.Err = x.segs[:0], nil
			x.col = col
			x.req.Op = opWrite
			x.req.Chunk = uint64(m.chunk)
			for k, i := range e.Index[:e.Rows] {
				x.add(i, e.header(v, col, k), nil)
			}
			m.peer.send(x)
		}
	}
	return len(side)
}

// encode makes the headers.
func (e *erasing) encode(v *Volume) {
	for k, i := range e.Index[:e.Rows] {
		for _, c := range []raid.Col{0, raid.Col(v.geo.Members() - 1)} {
			raid.PutErased(e.header(v, c, k), v.site(e.Group, i), e.Seq)
		}
	}
}

// header is that of row k of the erasure in the size of column c.
func (e *erasing) header(v *Volume, c raid.Col, k int) []byte {
	n := v.layout.HeaderBytes(c)
	if n == raid.HeaderSize {
		return e.mem[0].Page[k*n:][:n]
	}
	per := raid.PageSize / n
	return e.mem[1+k/per].Page[k%per*n:][:n]
}

// outcome waits for x. When the volume is closed nobody else completes what
// never got out.
func (v *Volume) outcome(ctx context.Context, x *xfer) error {
	select {
	case err := <-x.wait:
		return err
	case <-ctx.Done():
	}
	for {
		v.drainDead()
		select {
		case err := <-x.wait:
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

// eraseSlots erases the slots in list of a member that nothing else uses yet. Their
// headers are in heads, which is registered, by their distance from the first one.
func (v *Volume) eraseSlots(conn transport.Conn, m *memberRef, from raid.Index, heads []byte, list []raid.Index, deadline func() time.Time) error {
	done := make(chan error, 1)
	size := v.layout.HeaderBytes(m.col)
	q := &transport.Request{Op: opWrite, Chunk: uint64(m.chunk), Done: func(q *transport.Request) { done <- q.Err }}
	for len(list) > 0 {
		n := min(len(list), transport.MaxSegs)
		q.Segs = q.Segs[:0]
		for _, i := range list[:n] {
			q.Segs = append(q.Segs, transport.Seg{Index: uint32(i), Header: heads[int(i-from)*size:][:size]})
		}
		q.Err, q.Deadline = nil, deadline()
		if err := conn.Submit(q); err != nil {
			return err
		}
		conn.Kick()
		if err := <-done; err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
