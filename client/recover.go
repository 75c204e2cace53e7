package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// mapRecovery maps and registers the buffers of the recovery, and of whoever reads
// headers later, which a transport wants to know before the first session.
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
	a := v.lock()
	rec := raid.NewRecovery(v.mu.log)
	v.mu.ops++ // the watch looks after what is not done
	v.unlock(a)
	err := v.recoverBy(ctx, rec)
	a = v.lock() // not deferred: a panic that comes with the lock held must end the process
	v.opGoneLocked()
	v.unlock(a)
	return err
}

func (v *Volume) recoverBy(ctx context.Context, rec *raid.Recovery) error {
	start := time.Now()
	w := v.geo.Members()
	mem := v.recoverMem
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
	if err := v.prove(ctx, rec); err != nil {
		return fmt.Errorf("recovering the page map: %w", err)
	}
	unread, err := v.recoverNotes(rec)
	if err != nil {
		return fmt.Errorf("recovering the page map: %w", err)
	}
	a := v.lock()
	state := rec.Incomplete()
	void := rec.Finish()
	st := v.mu.log.Stats()
	accepted := v.mu.tooFew || state.Loss() && v.cfg.AcceptLoss
	_, unsure, _ := v.mu.log.Unsettled()
	if !v.mu.tooFew && !state.Loss() { // else the map may count on what is dead, and was never refilled
		v.damagedLocked(rec)
	}
	v.countUnknownLocked(state, unread)
	v.healthChangedLocked()
	v.unlock(a)
	v.log.Info("page map recovered", "took", time.Since(start).Round(time.Millisecond),
		"pages", st.Mapped, "filled", st.Filled, "rows", st.UsedRows, "unanswered_rows", void, "rows_to_move", unsure)
	switch n := state.Undecodable; {
	case n == 0:
	case accepted:
		v.log.Error("rows cannot be decoded from the members that are up, and the loss was accepted: their pages answer EIO, or read as zeros or as older versions", "rows", n)
	default:
		v.log.Error("rows cannot be decoded from the members that are up: their pages answer EIO until others return", "rows", n)
	}
	switch {
	case state.Foreign > 0:
		return fmt.Errorf("%d rows were written by another version of dmps: attach with that version, and move the data", state.Foreign)
	case state.Loss() && !v.cfg.AcceptLoss:
		return fmt.Errorf("%d pages cannot be read and it is not known which, %d rows may or may not have been answered: older versions of their pages would be served: bring back a memory server, or accept the loss (attach --accept-data-loss)",
			state.Unnamed, state.Doubtful+state.Overrun)
	case state.Loss():
		v.log.Error("the loss of pages was accepted of which it is not known which they are: older versions of them are served, or zeros", "pages", state.Unnamed, "rows", state.Doubtful+state.Overrun)
	}
	v.settleMembers()
	return nil
}

// countUnknownLocked counts the pages that are gone without a trace, at most: those whose
// loss nobody has accepted yet, and those that are gone since, which may be others.
func (v *Volume) countUnknownLocked(state raid.Incomplete, unread bool) {
	var found uint64
	if state.Loss() {
		found = uint64(state.Unnamed + (state.Doubtful+state.Overrun)*v.geo.K)
	}
	if v.mu.tooFew || unread && state.Loss() {
		// A note tells of many pages. Even when the map says something of every page, it
		// may be too old.
		found = max(found, v.unnamedLocked(), 1)
	}
	v.mu.unknown = min(v.mu.unknown+found, max(v.layout.Pages, v.mu.unknown))
	v.mu.untold = found > 0
}

// damagedLocked counts rows that members should have had and did not.
func (v *Volume) damagedLocked(rec *raid.Recovery) {
	rec.Damaged(func(g raid.GroupID, c raid.Col, rows int) {
		m := v.member(g, c)
		if m.peer == nil {
			return
		}
		v.mu.count.corrupt += int64(rows)
		for range rows {
			v.countBadSlotLocked(m.peer.id)
		}
		v.log.Error("a server does not hold rows that it had acknowledged: they are filled from the others", "server", m.peer.id, "group", g, "column", c, "rows", rows)
	})
}

// recoverGroup reads the headers of one group, block by block, of the members that
// belong to it.
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
	filling := v.fillingOf(g)
	v.readHeaders(g, 0, raid.ViewRows, bufs, have)
	var views [raid.ViewRows][][]byte
	for i := range views {
		views[i] = slices.Clone(of(uint32(i)))
	}
	believed, err := v.enterView(g, views, filling)
	if err != nil {
		return err
	}
	for from := uint32(0); from < v.layout.ChunkSlots && ctx.Err() == nil; from += block {
		n := min(block, v.layout.ChunkSlots-from)
		v.readHeaders(g, from, n, bufs, have)
		if err := v.enough(g, have, filling); err != nil {
			return err
		}
		for i := range n {
			rows[i].Parse(v.geo, v.site(g, raid.Index(from+i)), of(i), believed)
		}
		a := v.lock()
		for i := range n {
			rec.Parsed(g, raid.Index(from+i), &rows[i])
		}
		v.unlock(a)
	}
	return nil
}

// enterView takes the view of a group from what its members say of it.
func (v *Volume) enterView(g raid.GroupID, views [raid.ViewRows][][]byte, filling uint32) (raid.Witnesses, error) {
	a := v.lock()
	defer v.unlock(a)
	found := v.mu.log.SetView(g, views, filling)
	believed := v.mu.log.Witnesses(g)
	read := uint32(0)
	for c := range raid.Col(v.geo.Members()) {
		if views[0][c] == nil {
			continue
		}
		read |= 1 << c
		if found && believed.View&(1<<c) == 0 {
			v.member(g, c).ref.unread.Store(true) // it was out when the view was made: it is compared before it is used
		}
	}
	switch {
	case found && (v.cfg.AcceptLoss || v.mu.log.Enough(g, read)):
		return believed, nil
	case v.cfg.AcceptLoss:
		v.mu.tooFew = true
		v.mu.log.AcceptView(g, read)
		return v.mu.log.Witnesses(g), nil
	case popcount(read&^filling) < v.geo.K || found:
		return raid.Witnesses{}, v.tooFewLocked(g, popcount(read&^filling))
	}
	return raid.Witnesses{}, fmt.Errorf("group %d: none of its %d members that are up holds the record of who belongs to it: bring back a memory server, or accept the loss (attach --accept-data-loss)", g, popcount(read))
}

// enough says whether the members that could be read are enough for a recovery, those
// that are being rebuilt aside. If not it goes on only when that was accepted: then rows
// may be overlooked that were answered.
func (v *Volume) enough(g raid.GroupID, have []bool, filling uint32) error {
	read := uint32(0)
	for c, ok := range have {
		if ok {
			read |= 1 << c
		}
	}
	a := v.lock()
	defer v.unlock(a)
	switch {
	case v.mu.log.Enough(g, read):
		return nil
	case v.cfg.AcceptLoss:
		v.mu.tooFew = true
		return nil
	}
	return v.tooFewLocked(g, popcount(read&^filling))
}

// tooFewLocked says why a group cannot be recovered, and what can be done.
func (v *Volume) tooFewLocked(g raid.GroupID, up int) error {
	away := 0 // may come back with what they hold
	for c := range raid.Col(v.geo.Members()) {
		if m := v.member(g, c); m.peer != nil && !m.ref.rebuilding && !m.ref.empty.Load() && m.peer.state != peerGone {
			away++
		}
	}
	away -= up
	err := fmt.Errorf("group %d: the headers of %d of %d members could be read, %d are needed", g, up, v.geo.Members(), v.geo.K)
	if up >= v.geo.K {
		err = fmt.Errorf("group %d: %d of %d members could be read, but they may lack rows that only others have", g, up, v.geo.Members())
	}
	switch {
	case away > 0:
		return fmt.Errorf("%w: bring back the %d that are away, or have what is left served with attach --accept-data-loss", err, away)
	case up > 0:
		return fmt.Errorf("%w: the others are gone for good: have what is left served with attach --accept-data-loss", err)
	}
	return fmt.Errorf("%w: all that it held is gone: restore the data from elsewhere into another volume (volume delete, volume create), or have what other groups hold served with attach --accept-data-loss", err)
}

// readHeaders fetches n headers of every member of g that is up, and tells which could
// be read.
func (v *Volume) readHeaders(g raid.GroupID, from, n uint32, bufs []byte, have []bool) {
	answered := v.ask(g, 1<<v.geo.Members()-1, func(x *xfer, c raid.Col) {
		x.req.Op, x.req.Count = opReadHeaders, int(n)
		x.add(raid.Index(from), bufs[int(c)*transport.MaxHeadersBytes:][:int(n)*v.layout.HeaderBytes(c)], nil)
	})
	for c := range have {
		have[c] = answered&(1<<c) != 0
	}
}

// ask has each of the members in who that are up asked by a transfer, which fill
// completes, and waits for all. It gives those that answered.
func (v *Volume) ask(g raid.GroupID, who uint32, fill func(*xfer, raid.Col)) (answered uint32) {
	var wait [raid.MaxData + raid.MaxParity]chan error
	asked := v.membersToRead(g)
	for c := range raid.Col(v.geo.Members()) {
		m := asked[c]
		if m.peer == nil || who&(1<<c) == 0 {
			continue
		}
		x := v.xfers.get()
		x.wait = make(chan error, 1)
		x.req.Chunk = uint64(m.chunk)
		fill(x, c)
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
		answered |= 1 << c
	}
	return answered
}

// membersToRead is whom of group g a recovery asks, as they are now: a chunk that
// turns out to be gone leaves the volume at any time. Whoever should be asked and
// cannot be is marked as unread. A member that is being rebuilt is asked for rows that
// few others have, as those written since; what it lacks says nothing, and it is compared
// with the map later.
func (v *Volume) membersToRead(g raid.GroupID) (asked [raid.MaxData + raid.MaxParity]member) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for c := range raid.Col(v.geo.Members()) {
		m := v.member(g, c)
		switch {
		case m.peer == nil:
		case m.ref.empty.Load() || m.peer.state != peerUp || !m.ref.opened: // or its server had no memory for it
			m.ref.unread.Store(true)
		default:
			asked[c] = *m
		}
	}
	return asked
}

// fillingOf is the mask of members of g that are being rebuilt.
func (v *Volume) fillingOf(g raid.GroupID) (mask uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for c := range raid.Col(v.geo.Members()) {
		if m := v.member(g, c); m.ref != nil && m.ref.rebuilding {
			mask |= 1 << c
		}
	}
	return mask
}

// recoverNotes reads the note pages and replays their records. It tells whether some
// could not be read.
func (v *Volume) recoverNotes(rec *raid.Recovery) (some bool, err error) {
	a := v.lock()
	slots := rec.Notes()
	v.unlock(a)
	unread := make(map[int]uint32) // a note counts only if it was read both times
	for _, step := range []func(raid.Slot, []byte) error{rec.Note, rec.Bind} {
		for from := 0; from < len(slots); from += 32 {
			these, err := v.replayNotes(slots[from:min(from+32, len(slots))], step)
			if err != nil {
				return false, err
			}
			for i, wrong := range these {
				unread[from+i] |= wrong
			}
		}
	}
	a = v.lock()
	defer v.unlock(a)
	for i, wrong := range unread {
		rec.Unreadable(i, wrong)
	}
	return len(unread) > 0, nil
}

// replayNotes hands the notes in slots that can be read to step. It gives the indices
// of those that cannot, each with the members that gave something else.
func (v *Volume) replayNotes(slots []raid.Slot, step func(raid.Slot, []byte) error) (unread map[int]uint32, err error) {
	bufs, ok := v.moves.tryGet(len(slots), nil)
	if !ok {
		return nil, errTooMany
	}
	done := make(chan struct{})
	op := &Op{Kind: opClean, Bufs: bufs, Done: func(*Op) { close(done) }}
	a := v.lock()
	v.mu.ops++
	op.st = opState{left: len(slots), start: nanotime(), wrong: make([]uint32, len(slots))}
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
		return nil, fmt.Errorf("reading notes: %w", op.Err)
	}
	unread = make(map[int]uint32)
	for i, s := range slots {
		if op.Bufs[i] == nil {
			unread[i] = op.st.wrong[i]
			continue
		}
		if err := step(s, op.Bufs[i].Page); err != nil {
			return nil, err
		}
	}
	return unread, nil
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
			v.compareAnew(p, c)
		}
	}
}

// compareAnew ends session c of p, so that the next one begins with a comparison. When p has
// another session by now that one did, and nobody waits for one more.
func (v *Volume) compareAnew(p *peer, c transport.Conn) {
	v.mu.Lock()
	p.comparing = p.conn() == c
	v.mu.Unlock()
	v.peerDown(p, c, errNotCompared)
}

// compareTried notes that p was compared with the map, or cannot be now.
func (v *Volume) compareTried(p *peer) {
	v.mu.Lock()
	p.comparing = false
	v.mu.Unlock()
}

// comparingLocked reports whether a server that answered the recovery is being compared
// with the map. The views that a volume begins with wait for it: without its members, which
// were read, in all groups, groups may begin with as few as can be.
func (v *Volume) comparingLocked() bool {
	return slices.ContainsFunc(v.allPeers(), func(p *peer) bool { return p.comparing })
}
