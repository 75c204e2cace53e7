package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"dmps/internal/jitter"
	"dmps/raid"
	"dmps/transport"
)

// counters count since the volume was opened. Guarded by Volume.mu.
type counters struct {
	readOps, writeOps, trims, flushes int64
	readBytes, writeBytes             int64
	ioErrors                          int64

	reads, readPages    int64 // page-in transfers and the pages in them
	batches, batchPages int64 // page-out batches and the pages in them
	pendingHits         int64 // pages read that were under way, and waited until they were stored
	filledPages         int64 // pages that went into notes
	abandoned           int64 // batches that were placed again
	degradedRows        int64 // rows written to fewer than all members
	degradedReads       int64 // pages rebuilt from other members
	hedges, hedgeWins   int64 // pages fetched a second way, and how often that was faster
	cleanedPages        int64 // pages that the cleaner moved
	corrupt             int64 // pages that did not match their header
	contradictions      int64 // pages whose sources contradicted each other
	lostPageIns         int64 // page-ins that ended with ErrLost, one a page and time: not how many pages are lost
	sessionsLost        int64
	erasedRows          int64 // dead rows whose headers were erased
	views               int64 // records of groups' views that were written

	rebuildPasses              int64 // times that somebody went through the rows of a member that misses some
	rebuiltRows, rebuildFailed int64 // rows that members were given, and that they could not be given
	rebuildPulled              int64 // bytes that servers pulled for it
}

func (c *counters) asMap() map[string]int64 {
	return map[string]int64{
		"read_ops": c.readOps, "write_ops": c.writeOps, "trim_ops": c.trims, "flush_ops": c.flushes,
		"read_bytes": c.readBytes, "write_bytes": c.writeBytes, "io_errors": c.ioErrors,
		"page_in_transfers": c.reads, "page_in_pages": c.readPages,
		"page_out_batches": c.batches, "page_out_pages": c.batchPages,
		"pending_hits": c.pendingHits, "filled_pages": c.filledPages,
		"abandoned_batches": c.abandoned, "degraded_rows_written": c.degradedRows,
		"degraded_reads": c.degradedReads, "hedged_reads": c.hedges, "hedge_wins": c.hedgeWins,
		"cleaned_pages": c.cleanedPages, "corrupt_pages": c.corrupt, "contradictions": c.contradictions, "lost_page_ins": c.lostPageIns,
		"sessions_lost": c.sessionsLost, "erased_rows": c.erasedRows, "views_written": c.views,
		"rebuild_passes": c.rebuildPasses, "rebuilt_rows": c.rebuiltRows, "rebuild_failed_rows": c.rebuildFailed, "rebuild_pulled_bytes": c.rebuildPulled,
	}
}

// healthChangedLocked wakes the rebuild driver and has a report sent: members
// came, went, or turned out to miss rows.
func (v *Volume) healthChangedLocked() {
	v.wakeRebuild()
	v.mu.heal.healthNextWalk, v.mu.heal.saveNext = 0, 0
	v.eraseSoonLocked()
	v.reportSoonLocked()
}

// reportSoonLocked makes the next report look again, and has it sent at once.
func (v *Volume) reportSoonLocked() {
	v.mu.healthStale = true
	select {
	case v.worse <- struct{}{}:
	default:
	}
}

// Latencies are the times that requests of front ends took so far.
func (v *Volume) Latencies() (read, write Buckets) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.readLat.ever, v.mu.writeLat.ever
}

// carriersLocked counts the sessions by what carries their pages.
func carriersLocked(v *Volume, counters map[string]int64) {
	for _, p := range v.allPeers() {
		if len(p.members) == 0 || p.state != peerUp {
			continue
		}
		if c, ok := p.conn().(transport.Carrier); ok {
			counters["sessions_"+strings.ReplaceAll(c.Carrier(), "+", "_")]++
		}
		if c, ok := p.conn().(transport.Railed); ok {
			up, all := c.Rails()
			counters["rails"] += int64(up)
			counters["rails_down"] += int64(all - up)
		}
	}
}

// Report says how the volume is.
func (v *Volume) Report() Report {
	a := v.lock()
	defer v.unlock(a)
	r := Report{
		State: StateHealthy, RedundancyLeft: v.geo.M, Counters: v.mu.count.asMap(), Suspect: []raid.ServerID{},
		Known: max(v.mu.version, v.layout.Version),
	}
	for _, q := range []struct {
		name string
		l    *latency
	}{{"read", &v.mu.readLat}, {"write", &v.mu.writeLat}} {
		r.Counters[q.name+"_p50_ns"] = q.l.quantile(0.5)
		r.Counters[q.name+"_p99_ns"] = q.l.quantile(0.99)
		r.Counters[q.name+"_max_ns"] = q.l.most
		r.Counters[q.name+"_sum_ns"] = q.l.sum
		r.Counters[q.name+"_count"] = q.l.total
	}
	carriersLocked(v, r.Counters)
	var probation int
	r.Probation, probation = v.probationLocked()
	r.Counters["lease_expired_seconds"] = int64(v.expiredLocked() / time.Second)
	r.Counters["members_on_probation"] = int64(probation)
	for _, p := range v.allPeers() {
		if len(p.members) == 0 {
			continue // its last chunk has left
		}
		if p.state == peerSuspect || p.state == peerConnecting {
			r.Suspect = append(r.Suspect, p.id)
		}
	}
	if v.inplace != nil {
		v.reportInPlaceLocked(&r)
		return r
	}
	h, st := v.healthLocked(), v.mu.log.Stats()
	r.DegradedGroups, r.DegradedRows, r.LostPages, r.Unknown = h.DegradedGroups, h.DegradedRows, h.LostPages, v.mu.unknown
	r.RedundancyLeft = h.RedundancyLeft
	v.rebuildLocked(&r)
	r.Rebuild = v.rebuildReportLocked(h)
	r.Refused = v.refusedLocked()
	r.BadSlots = maps.Clone(v.mu.badSlots)
	v.reportScrubLocked(&r)
	r.MappedPages, r.FilledPages, r.FreeRows = st.Mapped, st.Filled, st.FreeRows
	row := int64(v.geo.Members()) * raid.PageSize
	r.Counters["stored_bytes"] = int64(st.UsedRows) * row
	r.Counters["stored_bytes_bound"] = int64(v.mu.log.RowBound()) * row
	barred := h.Unreachable > 0 || !v.mu.log.Writable()
	switch failed := v.barredLocked(barred); {
	case h.LostPages > 0 || failed:
		r.State = StateFailed
	case h.DegradedGroups > 0 || barred:
		r.State = StateDegraded
	}
	if r.Unknown > 0 && r.State != StateFailed {
		r.State, r.Beside = StateFailed, r.State
	}
	return r
}

// refusedLocked lists the members, and the pending ones, whose servers answer and have
// no memory for them.
func (v *Volume) refusedLocked() (out []RefusedMember) {
	for i := range v.memberOf {
		for _, m := range [...]*member{&v.memberOf[i], &v.movers[i]} {
			if m.ref != nil && m.ref.refused && m.peer.state == peerUp && len(out) < MaxRefused {
				out = append(out, RefusedMember{Group: m.ref.group, Column: m.ref.col, Server: m.peer.id, Chunk: m.chunk})
			}
		}
	}
	return out
}

// failedAfter is how long pages have to be out of reach, or no page be taken, until a
// volume is called failed: requests wait meanwhile, and are answered when a session that
// broke is there again.
const failedAfter = 3 * time.Second

// barredLocked reports whether it has been so for long, as far as reports have seen.
func (v *Volume) barredLocked(now bool) (long bool) {
	switch {
	case !now:
		v.mu.barred = time.Time{}
	case v.mu.barred.IsZero():
		v.mu.barred = time.Now()
	default:
		return time.Since(v.mu.barred) >= failedAfter
	}
	return false
}

// tellOpened reports before anything can be written, until meta has heard it.
// From then on the volume counts as opened, and the next client recovers what this
// one writes; until then it would not, since there may be nothing to recover from.
// Nor may meta learn only later that pages are gone of which nobody knows which: a
// client that died before would leave a volume that looks healthy.
func (v *Volume) tellOpened(ctx context.Context) error {
	if v.cfg.Meta == nil {
		return nil
	}
	for said := false; ; {
		r := v.Report()
		r.Rebuilt = []raid.ChunkID{} // claimed later: what is claimed binds what is written (leaseReport)
		rctx, cancel := context.WithTimeout(ctx, v.renewEvery())
		version, err := v.cfg.Meta.Renew(rctx, v.layout.Volume, v.layout.Epoch, r)
		again := false
		if err == nil {
			again, err = v.tellAgain(rctx, r.Known, version)
		}
		cancel()
		switch {
		case err == nil && again:
			continue
		case err == nil:
			return nil
		case errors.Is(err, ErrFenced), errors.Is(err, ErrNoVolume):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("telling the metadata service that the volume is open: %w", errors.Join(ctx.Err(), err))
		case !said:
			v.log.Warn("the volume is served when the metadata service knows that it is open", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter.Around(redialMost)):
		}
	}
}

// tellAgain reports whether what is unknown has to be told again, as of a version of
// the layout that is newer than the one of the report: meta may have taken it for a loss
// that was accepted while this client was on its way.
func (v *Volume) tellAgain(ctx context.Context, known, version uint64) (bool, error) {
	v.mu.Lock()
	again := v.mu.untold && version > known
	v.mu.untold = again
	v.mu.Unlock()
	if !again {
		return false, nil
	}
	return true, v.layoutChanged(ctx, version)
}

// unnamedLocked counts the pages that the map says nothing of: at most so many are
// gone without a trace.
func (v *Volume) unnamedLocked() uint64 {
	st := v.mu.log.Stats()
	return v.layout.Pages - st.Mapped - st.Filled
}

func (v *Volume) renewEvery() time.Duration {
	if every := v.cfg.Lease.Renew; every > 0 {
		return every
	}
	return 2 * time.Second
}

// keepLease renews the lease and reports, until the volume is closed or
// somebody else has it. Without meta paging goes on: the servers fence whoever
// is replaced.
func (v *Volume) keepLease(ctx context.Context) {
	if v.cfg.Meta == nil {
		return
	}
	every := v.renewEvery()
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	known := v.layout.Version
	next := time.Now() // a report out of turn is not sent before
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-v.worse:
			// A degraded volume gets worse with every batch.
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(next)):
			case <-v.urgent:
			}
		case <-v.urgent:
		}
		next = time.Now().Add(every / 8)
		rctx, cancel := context.WithTimeout(ctx, every)
		r := v.leaseReport(v.metaAnswers())
		sent := nanotime()
		version, err := v.cfg.Meta.Renew(rctx, v.layout.Volume, v.layout.Epoch, r)
		if err == nil {
			v.leaseRenewed(sent)
		}
		if err == nil && version > known {
			if err = v.layoutChanged(rctx, version); err == nil {
				known = version
			}
		}
		if err == nil {
			// Only now: a member that was replaced meanwhile was not noted.
			v.absenceNoted(r.Behind)
		}
		cancel()
		v.mu.Lock()
		v.mu.metaAnswers = err == nil
		v.mu.Unlock()
		switch {
		case err == nil:
			if failing {
				v.log.Info("the metadata service answers again")
			}
			failing = false
		case errors.Is(err, ErrFenced):
			v.fence(err)
			return
		case ctx.Err() != nil:
			return
		case !failing:
			failing = true
			v.log.Warn("cannot renew the lease: paging goes on", "err", err)
		}
		if failing {
			// No faster than the pace, however often the health changes.
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// metaAnswers reports whether the last renewal of the lease succeeded.
func (v *Volume) metaAnswers() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.metaAnswers
}

// lastReport is the report that goes to meta when the volume is closed: how it is
// left. It is made while the sessions exist. Nobody is named who is about to miss
// rows, since none is written any more.
func (v *Volume) lastReport() Report {
	v.mu.Lock()
	v.mu.healthStale, v.mu.heal.healthNextWalk = true, 0
	v.mu.Unlock()
	r := v.leaseReport(v.metaAnswers())
	r.Behind = nil
	return r
}

// Layout is what the volume was opened with. It must not be changed.
func (v *Volume) Layout() *raid.Layout { return v.layout }
