package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// The rebuild driver fills what replaced members, and members that came back,
// do not have. It only sends lists of rows: the server that holds the member
// pulls from K others, decodes and stores (transport.Conn.Rebuild). So the
// client's own link and its page buffers stay free for paging.
//
// A server that does not pull, or that cannot reach its peers although this
// machine can, is helped by the cleaner: the rows that it misses are moved to
// others, through this machine (HealVictims).
//
// Pending members (moving.go) are filled by the same lists, after all others and
// from the member that leaves, which is a copy.
//
// Its order is: groups that can bear the least first, then as they come. It
// holds a read epoch while a list is on its way, so that none of its rows is
// reused before the old content has landed.

const (
	// rebuildSide is how many members are filled side by side.
	rebuildSide = 4
	// rebuildRows is how many rows go into one list: 1 MiB of slots, so that
	// progress shows, a guard can hold it back, and rows that die meanwhile
	// are free again soon.
	rebuildRows = 256
	// rebuildRest is how long the driver rests after it could do nothing for
	// a member that needs something.
	rebuildRest = 250 * time.Millisecond
	// rebuildLook is how often the driver looks without being woken. A look
	// walks all members under the volume's lock, so it is rare; whoever makes
	// a member miss rows while it is up, or brings one up, wakes the driver.
	rebuildLook = 5 * time.Second
)

// rebuildJob is one member that is being filled.
type rebuildJob struct {
	grp  raid.GroupID
	col  raid.Col
	ref  *memberRef
	peer *peer
	conn transport.Conn
	at   raid.Index // where its list goes on

	unsure bool // rows that a recovery is not sure of: see fillUnsure
}

// rebuildAll runs the driver until the volume is closed.
func (v *Volume) rebuildAll(ctx context.Context) {
	slots := make(chan struct{}, rebuildSide)
	for ctx.Err() == nil {
		job, deferred := v.nextRebuild()
		if job == nil {
			wait := rebuildLook
			if deferred {
				wait = rebuildRest
			}
			if v.geo.M == 0 && deferred {
				v.pump()
			}
			select {
			case <-ctx.Done():
				return
			case <-v.rebuildBell:
			case <-time.After(wait):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			v.endRebuild(job)
			return
		}
		v.wg.Go(func() {
			v.fillMember(ctx, job)
			v.endRebuild(job)
			<-slots
			v.wakeRebuild()
		})
	}
}

// wakeRebuild makes the driver look again.
func (v *Volume) wakeRebuild() {
	select {
	case v.rebuildBell <- struct{}{}:
	default:
	}
}

// nextRebuild chooses a member that is up, misses rows and is not being filled
// yet: in the group that can lose the fewest members. deferred says that there
// are members which rest after a failure.
func (v *Volume) nextRebuild() (job *rebuildJob, deferred bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.closed != nil || !v.mu.ready {
		return nil, true
	}
	var best *member
	bestUp := v.geo.Members() + 1
	now := nanotime()
	look := func(m *member) {
		if m.ref == nil || m.ref.filling || m.peer.state != peerUp || m.ref.conn == nil || m.ref.conn != m.peer.conn() {
			return
		}
		if v.missingLocked(m.ref) == 0 {
			return
		}
		if now < m.ref.notBefore {
			deferred = true
			return
		}
		if up := popcount(v.mu.log.UpMembers(m.ref.group)); up < bestUp {
			best, bestUp = m, up
		}
	}
	if v.geo.M > 0 {
		for i := range v.memberOf {
			look(&v.memberOf[i])
		}
	}
	for i := range v.movers {
		if best != nil && !best.ref.pending {
			break
		}
		look(&v.movers[i])
	}
	if best == nil {
		return nil, deferred
	}
	if v.geo.M == 0 {
		// Servers decode nothing for such a volume: the cleaner moves the rows.
		v.mu.healing = true
		return nil, true
	}
	best.ref.filling = true
	v.mu.count.rebuildPasses++
	v.beginFillLocked()
	return &rebuildJob{grp: best.ref.group, col: best.ref.col, ref: best.ref, peer: best.peer, conn: best.ref.conn}, deferred
}

func (v *Volume) endRebuild(j *rebuildJob) {
	v.mu.Lock()
	j.ref.filling = false
	v.endFillLocked()
	v.mu.Unlock()
}

// restRebuild has a member rest for which nothing could be done. Without, the
// driver would choose it again at once, and for ever.
func (v *Volume) restRebuild(j *rebuildJob) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j.ref.notBefore = nanotime() + int64(rebuildRest)
	j.ref.blocked = true
}

// saveReadable has the cleaner move what can still be read of rows that cannot be
// decoded: a page whose own member is there has its last copy there. Not often,
// since the search walks all rows, and only what is written anew changes them.
func (v *Volume) saveReadable() {
	v.mu.Lock()
	now := nanotime()
	due := now >= v.mu.heal.saveNext
	if due {
		v.mu.heal.saveNext = now + int64(rebuildLook)
		v.mu.healing = true
	}
	v.mu.Unlock()
	if due {
		v.pump()
	}
}

// fillMember goes once through the rows that a member misses.
func (v *Volume) fillMember(ctx context.Context, j *rebuildJob) {
	listed := false
	for ctx.Err() == nil {
		most, granted, err := v.admit(ctx)
		if err != nil {
			return
		}
		spec, rows, epoch, more := v.rebuildList(j, most)
		if len(rows) == 0 {
			v.settle(granted, 0)
			if !more {
				if !listed { // of what it misses nothing can be decoded now
					v.restRebuild(j)
					v.saveReadable()
				}
				return
			}
			continue
		}
		listed = true
		res, err := j.conn.Rebuild(ctx, spec)
		if err != nil && !knownOutcome(err) {
			// What is under way must not land in rows that are used anew: the
			// session's end settles that.
			v.peerDown(j.peer, j.conn, fmt.Errorf("rebuilding member %d of group %d: %w", j.col, j.grp, err))
			<-j.conn.Done()
		}
		if err == nil {
			v.settle(granted, int64(res.Pulled))
		}
		done := v.rebuildDone(j, rows, epoch, res, err)
		v.pump()
		if err != nil || done == 0 {
			if ctx.Err() == nil && err != nil {
				v.log.Warn("a member cannot be rebuilt now", "group", j.grp, "column", j.col, "server", j.peer.id, "err", err)
			}
			return
		}
	}
}

// knownOutcome reports whether an error of Rebuild means that nothing of it
// will land any more.
func knownOutcome(err error) bool {
	return errors.Is(err, transport.ErrBadRebuild) || errors.Is(err, transport.ErrNoChunk) ||
		errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrClosed)
}

// rebuildList makes the next list of rows for a member and opens its read
// epoch: most rows at most. more says whether there may be further rows behind
// it.
func (v *Volume) rebuildList(j *rebuildJob, most int) (spec *transport.RebuildSpec, rows []raid.MissingRow, epoch uint8, more bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seatOf(j.ref).ref != j.ref || j.ref.conn != j.conn || j.peer.state != peerUp || v.mu.closed != nil {
		return nil, nil, 0, false
	}
	if j.at >= raid.Index(v.layout.ChunkSlots) {
		return nil, nil, 0, false
	}
	list := v.mu.log.MissingRows
	switch {
	case j.ref.pending:
		list = v.mu.log.PendingRows
	case j.unsure:
		list = v.mu.log.UnsureRows
	}
	missed := v.missingLocked(j.ref)
	rows, j.at = list(j.grp, j.col, j.at, make([]raid.MissingRow, 0, most))
	if len(rows) == 0 {
		if missed > 0 && v.missingLocked(j.ref) == 0 {
			v.healthChangedLocked() // those that it missed hold nothing of its column
		}
		return nil, nil, 0, j.at < raid.Index(v.layout.ChunkSlots)
	}
	j.ref.blocked = false
	spec = &transport.RebuildSpec{
		Chunk: uint64(j.ref.chunk), K: v.geo.K, M: v.geo.M, Col: uint8(j.col),
		RateBytes: v.listRateLocked(),
	}
	var listed uint32
	for c := range raid.Col(v.geo.Members()) {
		m := v.member(j.grp, c)
		if c == j.col && !j.ref.pending || m.ref == nil || m.peer.state != peerUp {
			continue
		}
		listed |= 1 << c
		spec.Sources = append(spec.Sources, transport.RebuildSource{
			Addr: m.peer.addr, Incarnation: uint64(m.peer.inc), Chunk: uint64(m.chunk), Col: uint8(c),
		})
	}
	for _, r := range rows {
		spec.Rows = append(spec.Rows, transport.RebuildRow{Index: uint32(r.Index), Tag: r.Tag, Filled: r.Filled, Have: r.Have & listed})
	}
	epoch = v.mu.epoch
	v.mu.reading[epoch]++
	return spec, rows, epoch, true
}

// rebuildDone takes the result of a list: rows that were stored are held by
// the member from now on. It reports how many.
func (v *Volume) rebuildDone(j *rebuildJob, rows []raid.MissingRow, epoch uint8, res transport.RebuildResult, err error) int {
	a := v.lock()
	defer v.unlock(a)
	v.mu.reading[epoch]--
	v.advanceLocked()
	if err != nil {
		j.ref.notBefore = nanotime() + int64(rebuildRest)
		v.mu.healing = v.mu.healing || errors.Is(err, transport.ErrRefused)
		return 0
	}
	failed := res.Failed
	done := 0
	for i, r := range rows {
		if len(failed) > 0 && failed[0].Row == i {
			failed = failed[1:]
			continue
		}
		switch {
		case v.seatOf(j.ref).ref != j.ref:
		case j.ref.pending:
			v.mu.log.PendingRestored(j.grp, j.col, r)
		default:
			v.mu.log.Restored(j.grp, j.col, r) // promoted meanwhile, perhaps
		}
		done++
	}
	v.mu.count.rebuiltRows += int64(done)
	v.mu.count.rebuildFailed += int64(len(rows) - done)
	v.mu.count.rebuildPulled += int64(res.Pulled)
	if !j.ref.pending { // what moves is not missing
		v.mu.heal.done += uint64(done)
	}
	if done == 0 || len(res.Failed) > 0 {
		// A source did not answer, or does not have what it should: the next
		// look has other sources, or a member less.
		j.ref.notBefore = nanotime() + int64(rebuildRest)
	}
	if done == 0 {
		v.mu.healing = true
	}
	if v.missingLocked(j.ref) == 0 {
		v.healthChangedLocked()
	}
	return done
}
