package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dmps/raid"
	"dmps/transport"

	"golang.org/x/sys/unix"
)

// recoverBlock is how many rows' headers are fetched at a time: as many as the
// largest of them fit one transfer.
func recoverBlock(g raid.Geometry) uint32 {
	return uint32(transport.MaxHeadersBytes / raid.HeaderBytes(g, raid.Col(g.Members()-1)))
}

// recoverWorkers is how many groups are read side by side.
const recoverWorkers = 4

// mapRecovery maps and registers the buffers of the recovery, which a
// transport wants to know before the first session.
func (v *Volume) mapRecovery() error {
	mem, err := unix.Mmap(-1, 0, recoverWorkers*v.geo.Members()*transport.MaxHeadersBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mapping the buffers of the recovery: %w", err)
	}
	v.recoverMem = mem // unmapped when the transport, which knows it, is closed
	n := len(mem) / transport.MaxHeadersBytes
	v.recoverBufs = make(chan []byte, n)
	for i := range n {
		v.recoverBufs <- mem[i*transport.MaxHeadersBytes:][:transport.MaxHeadersBytes]
	}
	if err := v.cfg.Dialer.Register(mem); err != nil {
		return fmt.Errorf("registering the buffers of the recovery: %w", err)
	}
	return nil
}

// recover rebuilds the page map from the slot headers of all members that are
// up, in parallel. No page-in or page-out runs yet.
func (v *Volume) recover(ctx context.Context) error {
	start := time.Now()
	w := v.geo.Members()
	mem := v.recoverMem
	var rec *raid.Recovery
	func() {
		a := v.lock()
		defer v.unlock(a)
		rec = raid.NewRecovery(v.mu.log)
		v.mu.ops++ // the watch looks after what is not done
	}()
	defer func() {
		a := v.lock()
		v.opGoneLocked()
		v.unlock(a)
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	groups := make(chan raid.GroupID)
	var wg sync.WaitGroup
	for i := range recoverWorkers {
		bufs := mem[i*w*transport.MaxHeadersBytes:][:w*transport.MaxHeadersBytes]
		wg.Go(func() {
			for g := range groups {
				if err := v.recoverGroup(ctx, rec, g, bufs); err != nil {
					cancel(err)
				}
			}
		})
	}
	for g := range v.layout.Groups {
		select {
		case groups <- raid.GroupID(g):
		case <-ctx.Done():
		}
	}
	close(groups)
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("recovering the page map: %w", context.Cause(ctx))
	}
	lostNotes, err := v.recoverNotes(rec)
	if err != nil {
		return fmt.Errorf("recovering the page map: %w", err)
	}
	a := v.lock()
	short, unnamed := rec.Incomplete()
	unnamed += lostNotes
	torn := rec.Finish()
	st, trusted := v.mu.log.Stats(), v.mu.log.Trusted()
	v.healthChangedLocked()
	v.unlock(a)
	v.log.Info("page map recovered", "took", time.Since(start).Round(time.Millisecond),
		"pages", st.Mapped, "filled", st.Filled, "rows", st.UsedRows, "unanswered_rows", torn, "rows_on_trust", trusted)
	if short > 0 {
		v.log.Error("rows cannot be decoded from the members that are up: their pages answer EIO until others return", "rows", short)
	}
	if unnamed > 0 && !v.cfg.AcceptLoss {
		return fmt.Errorf("%d pages are gone and it is not known which: older versions of them would be served: bring back a memory server, or accept the loss (attach --accept-data-loss)", unnamed)
	}
	v.settleMembers()
	return nil
}

// recoverGroup reads the headers of one group, block by block.
func (v *Volume) recoverGroup(ctx context.Context, rec *raid.Recovery, g raid.GroupID, bufs []byte) error {
	w := v.geo.Members()
	headers := make([][]byte, w)
	have := make([]bool, w)
	block := recoverBlock(v.geo)
	rows := make([]raid.RowHeaders, block)
	of := func(i uint32) [][]byte {
		for c := range w {
			headers[c] = nil
			if have[c] {
				size := v.layout.HeaderBytes(raid.Col(c))
				headers[c] = bufs[c*transport.MaxHeadersBytes+int(i)*size:][:size]
			}
		}
		return headers
	}
	for from := uint32(0); from < v.layout.ChunkSlots && ctx.Err() == nil; from += block {
		n := min(block, v.layout.ChunkSlots-from)
		if err := v.readHeaders(g, from, n, bufs, have); err != nil {
			return err
		}
		for i := range n {
			rows[i].Parse(v.geo, of(i))
		}
		a := v.lock()
		for i := range n {
			rec.Parsed(g, raid.Index(from+i), &rows[i], of(i))
		}
		v.unlock(a)
	}
	return nil
}

// readHeaders fetches n headers of every member of g that is up.
func (v *Volume) readHeaders(g raid.GroupID, from, n uint32, bufs []byte, have []bool) error {
	w := v.geo.Members()
	wait := make([]chan error, w)
	up := 0
	asked := v.membersToRead(g)
	for c := range raid.Col(w) {
		m := asked[c]
		have[c] = false
		if m.peer == nil {
			continue
		}
		x := v.xfers.get()
		x.wait = make(chan error, 1)
		x.req.Op = opReadHeaders
		x.req.Chunk = uint64(m.chunk)
		x.req.Count = int(n)
		x.add(raid.Index(from), bufs[int(c)*transport.MaxHeadersBytes:][:int(n)*v.layout.HeaderBytes(c)], nil)
		wait[c] = x.wait
		m.peer.send(x)
		m.peer.kick()
	}
	v.drainDead()
	for c, ch := range wait {
		if ch == nil {
			continue
		}
		if err := <-ch; err != nil {
			asked[c].ref.unread.Store(true)
			v.log.Warn("a member dropped out of the recovery", "group", g, "member", c, "err", err)
			continue
		}
		have[c] = true
		up++
	}
	if up < v.geo.K {
		return fmt.Errorf("group %d: the headers of %d of %d members could be read, %d are needed", g, up, w, v.geo.K)
	}
	return nil
}

// membersToRead is whom of group g a recovery asks, as they are now: a chunk that
// turns out to be gone leaves the volume at any time. Whoever should be asked and
// cannot be is marked as unread.
func (v *Volume) membersToRead(g raid.GroupID) (asked [raid.MaxData + raid.MaxParity]member) {
	v.mu.Lock()
	defer v.mu.Unlock()
	witnesses := 0 // they are up and hold all that was answered
	for c := range raid.Col(v.geo.Members()) {
		m := v.member(g, c)
		if m.peer == nil {
			continue
		}
		if m.ref.empty.Load() || m.peer.state != peerUp {
			if !m.ref.rebuilding {
				m.ref.unread.Store(true)
			}
			continue
		}
		asked[c] = *m
		if !m.ref.rebuilding {
			witnesses++
		}
	}
	// A member that is being rebuilt lacks rows that were answered: it is no
	// witness against them. With fewer than K others something may be gone; who
	// accepts that is served what all have.
	if v.cfg.AcceptLoss && witnesses < v.geo.K {
		return asked
	}
	for c := range asked {
		if m := &asked[c]; m.peer != nil && m.ref.rebuilding {
			*m = member{}
		}
	}
	return asked
}

// recoverNotes reads the note pages and replays their records. It tells how many
// cannot be read: nobody knows which pages they named, or if any still counts.
func (v *Volume) recoverNotes(rec *raid.Recovery) (lost int, err error) {
	a := v.lock()
	slots := rec.Notes()
	v.unlock(a)
	for _, step := range []func(raid.Slot, []byte) error{rec.Note, rec.Bind} {
		lost = 0
		for from := 0; from < len(slots); from += 32 {
			n, err := v.replayNotes(slots[from:min(from+32, len(slots))], step)
			if err != nil {
				return 0, err
			}
			lost += n
		}
	}
	return lost, nil
}

// replayNotes hands the notes in slots that can be read to step.
func (v *Volume) replayNotes(slots []raid.Slot, step func(raid.Slot, []byte) error) (lost int, err error) {
	bufs, ok := v.moves.tryGet(len(slots), nil)
	if !ok {
		return 0, errTooMany
	}
	done := make(chan struct{})
	op := &Op{Kind: opClean, Bufs: bufs, Done: func(*Op) { close(done) }}
	a := v.lock()
	v.mu.ops++
	op.st = opState{left: len(slots), start: nanotime()}
	r := router{v: v, a: a}
	now := v.clock()
	for i, s := range slots {
		u := v.newUnitLocked()
		u.op, u.i, u.buf, u.slot, u.raw, u.kind, u.since = op, i, bufs[i], s, true, raid.KindNotes, now
		r.route(u)
	}
	r.flush()
	v.unlock(a)
	v.kickAll()
	v.drainDead()
	<-done
	a = v.lock()
	defer v.unlock(a)
	for _, b := range op.Bufs {
		if b != nil { // nil: could not be read
			a.free = append(a.free, b)
		}
	}
	if op.Err != nil && !errors.Is(op.Err, ErrLost) {
		return 0, fmt.Errorf("reading notes: %w", op.Err)
	}
	for i, s := range slots {
		if op.Bufs[i] == nil {
			lost++
			continue
		}
		if err := step(s, op.Bufs[i].Page); err != nil {
			return lost, err
		}
	}
	return lost, nil
}

// settleMembers notes which members the recovery has seen. Who was down for a
// part of it, or is being rebuilt, is compared with the map at the beginning
// of its next session: one that exists is ended.
func (v *Volume) settleMembers() {
	v.mu.Lock()
	for _, p := range v.allPeers() {
		for _, m := range p.members {
			m.compared = !m.rebuilding && !m.pending && !m.unread.Load()
		}
	}
	v.mu.Unlock()
	v.recovered.Store(true)
	for _, p := range v.allPeers() {
		if c := p.conn(); c != nil && !p.compared(nil) {
			v.peerDown(p, c, errNotCompared)
		}
	}
}
