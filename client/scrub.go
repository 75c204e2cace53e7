package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dmps/internal/jitter"
	"dmps/internal/pace"
	"dmps/raid"
	"dmps/transport"
)

// A scrub reads and verifies every slot of every row in use:
//
//	list    rows of one group, under a read epoch: none is reused meanwhile
//	ask     every member that is up, all at once, to verify its slots of them
//	        (transport.RebuildSpec Verify): no page crosses this machine's link
//	judge   a slot that is wrong is marked as missed, and the rebuild driver
//	        fills it from the others, as after a read that met it
//	settle  what was filled is verified again                   scrub_settle.go
//
// What cannot be looked at, since its member is down, lost or still being
// filled, is counted: a scrub that skipped anything says so. A row that died
// meanwhile is no finding. Of rows that are not in use only the headers are read: scrub_unused.go.
//
// One scrub runs at a time. It has one list under way and rests between lists,
// so that it keeps its rate and holds a read epoch only for moments.

const (
	// scrubRows is how many rows one list has at most: 1 MiB of slots for each
	// member.
	scrubRows = 256
	// scrubHold is for how long a list may take at the scrub's rate: as long
	// as it does, rows that die cannot be used anew.
	scrubHold = 100 * time.Millisecond
	// scrubPatience bounds how long one member may take for a list, with rates
	// of the servers' own; then it is skipped.
	scrubPatience = 30 * time.Second
	// scrubTries is how often a member is asked for a list when its session
	// ends meanwhile, and scrubRetry how long it is waited for each time.
	scrubTries = 3
	scrubRetry = 500 * time.Millisecond
)

// ScrubOptions are what a scrub may be told.
type ScrubOptions struct {
	// Rate bounds what each server reads for the scrub, of its own memory and
	// from others, in bytes a second. 0: no limit but the servers' own.
	Rate int64
}

// Errors of scrubs.
var (
	ErrScrubRuns    = errors.New("a scrub is running")                                                       // wait for it, or stop it
	ErrScrubStopped = errors.New("the scrub was stopped")                                                    // begin another one when it suits
	ErrNoScrub      = errors.New("volumes whose pages stay in place have nothing to compare with: no scrub") // for ever
)

// scrub is one that runs or ran. All but the constants and the channels is
// guarded by Volume.mu.
type scrub struct {
	v      *Volume
	rate   int64
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended

	patience time.Duration
	rows     []raid.UsedRow // of the list that is under way; the walking goroutine's
	pending  []scrubSlot    // to be looked at again; the walking goroutine's

	guard   scrubGuard
	status  ScrubStatus
	servers map[raid.ServerID]*ScrubServer
	err     error // how it ended
}

// StartScrub starts a scrub, which ends by itself, by StopScrub, or with the
// volume. Errors: ErrScrubRuns, ErrNoScrub, and those of a volume that is
// closed.
func (v *Volume) StartScrub(o ScrubOptions) error {
	_, err := v.startScrub(o)
	return err
}

func (v *Volume) startScrub(o ScrubOptions) (*scrub, error) {
	if o.Rate < 0 {
		return nil, fmt.Errorf("scrubbing volume %s: rate of %d bytes a second", v.layout.Name, o.Rate)
	}
	a := v.lock()
	defer v.unlock(a)
	switch {
	case v.inplace != nil:
		return nil, fmt.Errorf("volume %s: %w", v.layout.Name, ErrNoScrub)
	case v.mu.closed != nil:
		return nil, v.mu.closed
	case v.mu.scrub != nil && v.mu.scrub.status.Running:
		return nil, fmt.Errorf("volume %s: %w since %v", v.layout.Name, ErrScrubRuns, v.mu.scrub.status.Started.Format(time.RFC3339))
	}
	ctx, cancel := context.WithCancel(v.run)
	s := &scrub{
		v: v, rate: o.Rate, cancel: cancel, done: make(chan struct{}), patience: v.scrubPatience,
		rows:    make([]raid.UsedRow, 0, scrubListRows(v.geo, o.Rate)),
		servers: make(map[raid.ServerID]*ScrubServer),
		guard:   scrubGuard{share: 1},
		status:  ScrubStatus{Running: true, Started: time.Now().UTC(), RowsTotal: v.mu.log.Stats().UsedRows, Rate: o.Rate},
	}
	v.mu.scrub = s
	v.reportSoonLocked()
	// Close sets closed under this lock before it waits.
	v.wg.Go(func() { s.run(ctx) })
	v.log.Info("a scrub begins", "rows", s.status.RowsTotal, "rate", o.Rate)
	return s, nil
}

// StopScrub ends a scrub that runs, and returns when it has ended.
func (v *Volume) StopScrub() {
	v.mu.Lock()
	s := v.mu.scrub
	v.mu.Unlock()
	if s != nil {
		s.cancel()
		<-s.done
	}
}

// Scrub does a scrub and returns what it found. Errors: those of StartScrub,
// ErrScrubStopped, the error of ctx, which stops it, and that of a volume that
// was closed or fenced. What was found until then is found.
func (v *Volume) Scrub(ctx context.Context, o ScrubOptions) (ScrubStatus, error) {
	s, err := v.startScrub(o)
	if err != nil {
		return ScrubStatus{}, err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		s.cancel()
		<-s.done
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	err = s.err
	if errors.Is(err, ErrScrubStopped) && ctx.Err() != nil {
		err = ctx.Err()
	}
	return s.snapshotLocked(), err
}

// scrubListRows is how many rows a list has.
func scrubListRows(g raid.Geometry, rate int64) int {
	if rate == 0 {
		return scrubRows
	}
	return int(min(max(rate*int64(scrubHold)/int64(time.Second)/scrubRowBytes(g), 1), scrubRows))
}

// scrubRowBytes is what the member that reads most reads for a row: a parity
// slot, and the data that it is the parity of.
func scrubRowBytes(g raid.Geometry) int64 {
	n := int64(raid.PageSize + raid.HeaderBytes(g, raid.Col(g.Members()-1)))
	switch {
	case g.Mirror():
		return n + raid.HeaderSize // of another copy
	case g.M > 0:
		return n + int64(g.K)*(raid.PageSize+raid.HeaderSize)
	}
	return n
}

// run walks all groups.
func (s *scrub) run(ctx context.Context) {
	defer close(s.done)
	defer s.cancel()
	err := s.walk(ctx)
	if err == nil {
		err = s.settle(ctx)
	}
	s.end(ctx, err)
}

func (s *scrub) walk(ctx context.Context) error {
	v := s.v
	// What the member reads that reads most.
	var limit pace.Pace
	limit.Set(float64(s.rate))
	for g := range v.layout.Groups {
		began := time.Now()
		for at := raid.Index(0); at < raid.Index(v.layout.ChunkSlots); {
			list, next, err := s.list(raid.GroupID(g), at)
			if err != nil {
				return err
			}
			at = next
			if list == nil {
				continue
			}
			s.ask(ctx, list)
			s.judge(list)
			if err := ctx.Err(); err != nil {
				return err
			}
			if len(s.pending) >= scrubPending {
				if err := s.settle(ctx); err != nil {
					return err
				}
			}
			if _, err := limit.Take(ctx, list.bytes); err != nil {
				return err
			}
			if err := s.yield(ctx, time.Since(began)); err != nil {
				return err
			}
			began = time.Now()
		}
		if err := s.walkUnused(ctx, raid.GroupID(g), &limit); err != nil {
			return err
		}
	}
	return nil
}

// end books how the scrub ended.
func (s *scrub) end(ctx context.Context, err error) {
	v := s.v
	a := v.lock()
	defer v.unlock(a)
	if err != nil && ctx.Err() != nil {
		err = ErrScrubStopped
		if v.mu.closed != nil {
			err = v.mu.closed
		}
	}
	for _, p := range s.pending { // stopped before it could be seen
		if p.bad {
			s.status.Unrepairable++
		}
	}
	s.pending = nil
	s.err = err
	s.status.Running, s.status.Finished = false, time.Now().UTC()
	st := s.snapshotLocked()
	if err != nil {
		s.status.Ended = err.Error()
		v.log.Warn("a scrub ended early", "err", err, "rows", st.RowsDone, "of", st.RowsTotal, "bad", st.BadSlots)
	} else {
		v.mu.scrubbed = &st
		v.log.Info("a scrub has ended", "took", st.Finished.Sub(st.Started).Round(time.Millisecond), "slots", st.SlotsVerified,
			"skipped", st.SlotsSkipped, "bad", st.BadSlots, "repaired", st.Repaired, "unrepairable", st.Unrepairable)
	}
	v.reportSoonLocked()
}

// scrubList is rows of one group and whom to ask for them.
type scrubList struct {
	grp   raid.GroupID
	rows  []raid.UsedRow
	epoch uint8
	refs  [raid.MaxData + raid.MaxParity]*memberRef // the members as the list was made; nil: lost
	parts []*scrubPart
	bytes int64 // that the member which reads most reads
}

// scrubPart is what one member is asked for.
type scrubPart struct {
	col  raid.Col
	ref  *memberRef
	peer *peer
	conn transport.Conn // nil: it cannot be asked
	spec transport.RebuildSpec
	rows []raid.UsedRow // spec.Rows
	res  transport.RebuildResult
	err  error
}

// list makes the next list, and opens its read epoch; nil: there were no rows
// in use up to next.
func (s *scrub) list(g raid.GroupID, at raid.Index) (*scrubList, raid.Index, error) {
	v := s.v
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.closed != nil {
		return nil, at, v.mu.closed
	}
	rows, next := v.mu.log.UsedRows(g, at, s.rows[:0])
	if len(rows) == 0 {
		return nil, next, nil
	}
	l := s.newListLocked(g, rows)
	l.bytes = int64(len(rows)) * scrubRowBytes(v.geo)
	for c := range raid.Col(v.geo.Members()) {
		s.partLocked(l, c, rows, true)
	}
	s.status.RowsDone += uint64(len(rows))
	return l, next, nil
}

func (s *scrub) newListLocked(g raid.GroupID, rows []raid.UsedRow) *scrubList {
	v := s.v
	l := &scrubList{grp: g, rows: rows, epoch: v.mu.epoch}
	for c := range raid.Col(v.geo.Members()) {
		l.refs[c] = v.member(g, c).ref
	}
	v.mu.reading[l.epoch]++
	return l
}

// endListLocked closes a list's read epoch.
func (s *scrub) endListLocked(l *scrubList) {
	s.v.mu.reading[l.epoch]--
	s.v.advanceLocked()
}

// partLocked asks column c for its slots of rows, and counts those that it does
// not have, if count says so.
func (s *scrub) partLocked(l *scrubList, c raid.Col, rows []raid.UsedRow, count bool) {
	v := s.v
	m := v.member(l.grp, c)
	p := &scrubPart{col: c, ref: m.ref, peer: m.peer}
	p.spec = transport.RebuildSpec{Chunk: uint64(m.chunk), K: v.geo.K, M: v.geo.M, Col: uint8(c), Verify: true, RateBytes: 2 * s.rate}
	var listed uint32
	if v.geo.M > 0 && (v.geo.Mirror() || int(c) >= v.geo.K) {
		for o := range raid.Col(v.geo.Members()) {
			src := v.member(l.grp, o)
			if o == c || src.ref == nil || src.peer.state != peerUp {
				continue
			}
			listed |= 1 << o
			p.spec.Sources = append(p.spec.Sources, transport.RebuildSource{
				Addr: src.peer.addr, Incarnation: uint64(src.peer.inc), Chunk: uint64(src.chunk), Col: uint8(o),
			})
		}
	}
	skipped := 0
	for _, r := range rows {
		switch {
		case int(c) < v.geo.K && r.Filled&(1<<c) == 0:
			continue // nothing was ever there
		case r.Holders&(1<<c) == 0:
			skipped++
			continue
		}
		p.rows = append(p.rows, r)
		p.spec.Rows = append(p.spec.Rows, transport.RebuildRow{
			Index: uint32(r.Index), Tag: r.Tag, Filled: r.Filled, Have: r.Holders & listed,
		})
	}
	if count {
		s.skippedLocked(m.peer, skipped, whyNotHeld(m))
	}
	if len(p.rows) == 0 {
		return
	}
	p.conn = v.sessionLocked(m)
	l.parts = append(l.parts, p)
}

// sessionLocked is the session in which a member can be used; nil: none.
func (v *Volume) sessionLocked(m *member) transport.Conn {
	if m.ref == nil || m.peer.state != peerUp || m.ref.conn == nil || m.ref.conn != m.peer.conn() {
		return nil
	}
	return m.ref.conn
}

// skippedLocked counts slots that could not be verified, and says why; p is nil when
// nobody holds them.
func (s *scrub) skippedLocked(p *peer, n int, why string) {
	if n == 0 {
		return
	}
	s.status.SlotsSkipped += uint64(n)
	if p != nil {
		t := s.serverLocked(p.id)
		t.Skipped += uint64(n)
		t.Problem = why
		why = string(p.id) + ": " + why
	}
	s.status.SkippedReason = why
}

// whyNotHeld says why a member does not hold a slot that it should.
func whyNotHeld(m *member) string {
	switch {
	case m.ref == nil || m.peer == nil || m.peer.state == peerGone:
		return "the member is lost, and not replaced yet"
	case m.peer.state != peerUp:
		return errNoSession.Error()
	case m.ref.rebuilding:
		return "the member is still being filled"
	}
	return "the member misses rows, and is still being filled with them"
}

// ask has all parts done side by side.
func (s *scrub) ask(ctx context.Context, l *scrubList) {
	var wg sync.WaitGroup
	for _, p := range l.parts {
		wg.Go(func() { s.askMember(ctx, l.grp, p) })
	}
	wg.Wait()
}

func (s *scrub) askMember(ctx context.Context, g raid.GroupID, p *scrubPart) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	p.err = errNoSession
	for try := range scrubTries {
		if try > 0 && !s.renew(ctx, g, p) || p.conn == nil {
			return
		}
		p.res, p.err = p.conn.Rebuild(ctx, &p.spec)
		if !errors.Is(p.err, transport.ErrClosed) {
			return
		}
	}
}

var errNoSession = errors.New("it does not answer")

// renew waits a moment for another session with a member.
func (s *scrub) renew(ctx context.Context, g raid.GroupID, p *scrubPart) bool {
	v := s.v
	for end := time.Now().Add(scrubRetry); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(jitter.Around(scrubRetry / 20)):
		}
		v.mu.Lock()
		m := v.member(g, p.col)
		var conn transport.Conn
		if m.ref == p.ref {
			conn = v.sessionLocked(m)
		}
		v.mu.Unlock()
		if conn != nil && conn != p.conn {
			p.conn = conn
			return true
		}
	}
	return false
}

// judge draws the conclusions from a list.
func (s *scrub) judge(l *scrubList) {
	v := s.v
	a := v.lock()
	defer v.unlock(a)
	for _, p := range l.parts {
		if p.err != nil {
			s.skippedLocked(p.peer, len(p.rows), p.err.Error())
			if v.mu.closed == nil && !errors.Is(p.err, context.Canceled) {
				v.log.Warn("slots cannot be verified now", "group", l.grp, "column", p.col, "server", p.peer.id, "rows", len(p.rows), "err", p.err)
			}
			continue
		}
		t := s.serverLocked(p.peer.id)
		t.Bytes += p.res.Checked + p.res.Pulled
		s.status.Bytes += p.res.Checked + p.res.Pulled
		n := uint64(len(p.rows))
		for _, f := range p.res.Failed {
			n -= s.failedLocked(l, p, p.rows[f.Row], f)
		}
		t.Slots += n
		s.status.SlotsVerified += n
	}
	s.endListLocked(l)
}

// failedLocked judges a slot that was not found right. It returns 1 when that
// slot has still to be verified.
func (s *scrub) failedLocked(l *scrubList, p *scrubPart, r raid.UsedRow, f transport.RebuildFailure) uint64 {
	v := s.v
	if !v.mu.log.InUse(l.grp, r.Index, r.Tag) {
		return 0 // of no concern any more
	}
	wrong := wrongSlot(f.Reason)
	switch {
	case wrong && f.Col == uint8(p.col):
		s.badLocked(l, r, p.col, f.Reason)
		return 0
	case wrong:
		// This slot is right by itself, and is compared when the source is.
		s.badLocked(l, r, raid.Col(f.Col), f.Reason)
		s.pending = append(s.pending, scrubSlot{grp: l.grp, row: r, col: p.col, ref: p.ref})
		return 1
	}
	s.skippedLocked(p.peer, 1, fmt.Sprintf("a row could not be compared: column %d: %v", f.Col, f.Reason))
	return 1
}

// wrongSlot reports whether a reason means that a slot does not hold what it
// should; the others, that it could not be seen.
func wrongSlot(r transport.RebuildReason) bool {
	return r == transport.RebuildHeader || r == transport.RebuildChecksum || r == transport.RebuildMismatch
}

// badLocked marks a slot as missed, once, and has it filled from the others.
func (s *scrub) badLocked(l *scrubList, r raid.UsedRow, c raid.Col, why transport.RebuildReason) {
	v := s.v
	m := v.member(l.grp, c)
	holders := v.mu.log.Holders(l.grp, r.Index)
	if m.ref == nil || m.ref != l.refs[c] || holders&(1<<c) == 0 {
		return // replaced, or found by somebody else
	}
	s.status.BadSlots++
	s.serverLocked(m.peer.id).Bad++
	v.countBadSlotLocked(m.peer.id)
	v.log.Error("a scrub found a slot that is wrong", "group", l.grp, "slot", r.Index, "column", c, "server", m.peer.id, "why", why)
	enough := v.mu.log.CanDecode(holders&^(1<<c), r.Filled)
	if !enough && why == transport.RebuildMismatch {
		// It has its checksum, and nobody is left who knows better.
		s.status.Unrepairable++
		return
	}
	v.mu.log.SetMissed(l.grp, r.Index, c)
	v.healthChangedLocked()
	if !enough {
		s.status.Unrepairable++
		return
	}
	s.pending = append(s.pending, scrubSlot{grp: l.grp, row: r, col: c, ref: m.ref, bad: true})
}
