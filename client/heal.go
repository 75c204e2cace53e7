package client

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"dmps/internal/pace"
	"dmps/raid"
)

// How filling members goes: what is left, how fast it is, and how fast it may
// be. The rebuild driver (rebuild.go) asks for leave before each list; what it
// gets follows from the rate that the user set and from the guard (guard.go).

// maxRebuildMembers bounds the members that a report names: those that are
// being filled, and the next ones.
const maxRebuildMembers = 16

// rateSmooth is the time constant of the speeds in a report.
const rateSmooth = 2 * time.Second

// rowsStill is how many rows a second count as none: the speed forgets slowly.
const rowsStill = 0.1

// RebuildReport is how filling members goes. Rows of members that do not answer
// do not count: they cannot be filled now.
type RebuildReport struct {
	RowsLeft         uint64          `json:"rows_left"`         // rows that members do not have yet; a row that two members miss counts twice
	RowsTotal        uint64          `json:"rows_total"`        // with those that were filled since nothing was missing
	RowsAdded        uint64          `json:"rows_added"`        // of them: that came on top since, because members came back or were replaced, or pages were written
	BytesPerSecond   float64         `json:"bytes_per_second"`  // that servers pull from each other, smoothed
	RemainingSeconds float64         `json:"remaining_seconds"` // at that speed; -1: cannot be told, because nothing moves yet, or any more
	Blocked          bool            `json:"blocked"`           // nothing of what is left can be made now: who holds it is away, or it is lost
	LimitBytes       int64           `json:"limit_bytes"`       // most bytes a second now, from the rate that was set and the guard; 0: no limit
	RateBytes        int64           `json:"rate_bytes"`        // the rate that was set; 0: none
	HeldBack         bool            `json:"held_back"`         // the guard makes it slower than it could be
	AtRiskSince      time.Time       `json:"at_risk_since,omitzero"`
	MembersLeft      int             `json:"members_left"` // that miss rows and answer
	Members          []RebuildMember `json:"members"`      // the first of them
}

// RebuildMember is a member that misses rows.
type RebuildMember struct {
	Group     raid.GroupID  `json:"group"`
	Column    raid.Col      `json:"column"`
	Server    raid.ServerID `json:"server"`
	Chunk     raid.ChunkID  `json:"chunk"`
	RowsLeft  uint64        `json:"rows_left"`
	RowsTotal uint64        `json:"rows_total"`
	Filling   bool          `json:"filling"` // it is at it now; else its turn comes
}

// healState is guarded by Volume.mu.
type healState struct {
	guard   guard
	mode    GuardMode
	rate    int64     // what the user set, bytes a second; 0: no limit
	active  int       // members that are being filled
	running bool      // since the last window in which none was
	begun   time.Time // of what can be filled now; zero: nothing
	atRisk  time.Time // since when less than the full redundancy is there; zero: it is
	done    uint64    // rows filled since no group was degraded
	least   uint64    // smallest sum of done and left since then; 0: nothing could be filled yet
	left    uint64    // rows that are missing, as of the last look

	looked         time.Time
	lastDone       uint64 // as of then, as is left
	lastPulled     int64
	rowSpeed       float64 // rows a second
	byteSpeed      float64 // bytes a second
	window         healWindow
	healthNextWalk int64 // before this time a health that needed a walk of rows is not asked for again
	saveNext       int64 // before this time the cleaner is not sent after rows that cannot be decoded
}

// healWindow is where the guard's present window began.
type healWindow struct {
	at     time.Time
	ever   Buckets
	pulled int64
	filled bool // a member was being filled at some time in it
}

// SetRebuildRate bounds what the servers pull for all members of this volume
// that are being filled, together, in bytes a second. 0: no limit but the
// servers' own. It takes effect at once.
func (v *Volume) SetRebuildRate(rate int64) {
	v.mu.Lock()
	v.mu.heal.rate = max(rate, 0)
	v.mu.heal.applyTo(&v.pace)
	v.mu.Unlock()
	v.wakeRebuild()
}

// WakeRebuild looks for members to fill, and for a newer layout, at once.
func (v *Volume) WakeRebuild() {
	a := v.lock()
	v.healthChangedLocked()
	v.unlock(a)
}

// limit is the present one, bytes a second; 0: none. held says that it is the
// guard's.
func (h *healState) limit() (rate float64, held bool) {
	rate = float64(h.rate)
	if h.mode != GuardOff && h.running && h.guard.limit > 0 && (rate == 0 || h.guard.limit < rate) {
		return h.guard.limit, true
	}
	return rate, false
}

// pressing reports whether a rebuild counts for more than latency.
func (h *healState) pressing(health raid.Health) bool {
	return h.mode != GuardStrict && health.RedundancyLeft <= 0
}

func (h *healState) applyTo(p *pace.Pace) {
	rate, _ := h.limit()
	p.Set(rate)
}

// beginFillLocked notes that one more member is being filled.
func (v *Volume) beginFillLocked() {
	h := &v.mu.heal
	h.active++
	h.window.filled = true
	if h.running {
		return
	}
	h.running = true
	h.guard.begin(h.pressing(v.healthLocked()))
	h.window = v.windowLocked(time.Now())
	h.applyTo(&v.pace)
	select {
	case v.guardBell <- struct{}{}:
	default:
	}
}

func (v *Volume) endFillLocked() { v.mu.heal.active-- }

func (v *Volume) windowLocked(now time.Time) healWindow {
	return healWindow{at: now, ever: v.mu.readLat.ever, pulled: v.mu.count.rebuildPulled, filled: v.mu.heal.active > 0}
}

// admit waits for leave to move the slots of some rows, and says for how many:
// few when the rate is low, so that they come evenly and a change of the rate
// takes effect soon. granted is what settle has to be told.
func (v *Volume) admit(ctx context.Context) (rows int, granted int64, err error) {
	rows = rebuildRows
	if rate := v.pace.Rate(); rate > 0 {
		v.mu.Lock()
		share := rate / v.mu.heal.side()
		v.mu.Unlock()
		rows = max(1, int(min(share*rebuildGust.Seconds()/float64(v.rowCost()), rebuildRows)))
	}
	granted, err = v.pace.Take(ctx, int64(rows)*v.rowCost())
	return rows, granted, err
}

// rebuildGust is how long a list takes when the rate is limited.
const rebuildGust = 100 * time.Millisecond

// rowCost is what a server pulls to fill one row, about, in bytes.
func (v *Volume) rowCost() int64 {
	return int64(v.geo.K) * (raid.PageSize + int64(raid.HeaderBytes(v.geo, 0)))
}

// listRateLocked is RateBytes of a list: a little above its share of the rate, so
// that it does not come in one gust, and what bounds the sum is the pace.
func (v *Volume) listRateLocked() int64 {
	rate := v.pace.Rate()
	if rate == 0 {
		return 0
	}
	return max(1, int64(1.25*rate/v.mu.heal.side()))
}

// side is how many members are being filled side by side. One more than fit may
// wait for its turn.
func (h *healState) side() float64 { return float64(min(max(h.active, 1), rebuildSide)) }

// settle accounts for what was moved after all.
func (v *Volume) settle(granted, pulled int64) {
	if granted > 0 {
		v.pace.Correct(pulled - granted)
	}
}

// guardAll takes the guard's windows until the volume is closed.
func (v *Volume) guardAll(ctx context.Context) {
	wait := guardRest
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.guardBell:
		case <-time.After(wait):
		}
		wait = v.guardLook(time.Now())
	}
}

// guardLook measures, and ends a window when it is due. It gives the time to
// the next look.
func (v *Volume) guardLook(now time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := &v.mu.heal
	health := v.healthLocked()
	v.progressLocked(now, health)
	wait := guardRest
	if h.running {
		wait = guardTick
	}
	w := &h.window
	pulled := v.mu.count.rebuildPulled
	w.filled = w.filled || h.active > 0 || pulled != w.pulled
	reads := v.mu.readLat.ever.since(&w.ever)
	took := now.Sub(w.at)
	if reads < guardReads && took < guardWindow {
		return wait
	}
	p99 := v.mu.readLat.ever.Quantile(&w.ever, 0.99)
	scrubbed := false
	if s := v.mu.scrub; s != nil && s.status.Running && h.mode != GuardOff {
		s.guard.step(reads >= guardIdle, p99, h.guard.healthy)
		scrubbed = true
	}
	h.guard.step(guardSample{
		reads: int(reads), p99: p99, filling: w.filled, scrubbed: scrubbed,
		rate: float64(pulled-w.pulled) / took.Seconds(), atRisk: h.pressing(health),
		whole: health.DegradedGroups == 0,
	})
	if !w.filled {
		h.running = false
	}
	h.window = v.windowLocked(now)
	h.applyTo(&v.pace)
	return wait
}

// progressLocked brings what is left and the speeds up to date.
func (v *Volume) progressLocked(now time.Time, health raid.Health) {
	h := &v.mu.heal
	switch {
	case health.RedundancyLeft >= v.geo.M:
		h.atRisk = time.Time{}
	case h.atRisk.IsZero():
		h.atRisk = now
	}
	h.left = 0
	if health.DegradedGroups > 0 {
		for i := range v.memberOf {
			m := &v.memberOf[i]
			if m.ref == nil {
				continue
			}
			missing := uint64(v.mu.log.Missing(m.ref.group, m.ref.col))
			m.ref.rows = max(m.ref.rows, missing)
			if missing == 0 {
				m.ref.rows = 0
			}
			if missing > 0 && (m.ref.rebuilding || m.peer.state == peerUp) {
				h.left += missing
			}
		}
	}
	switch {
	case health.DegradedGroups == 0:
		h.done, h.least = 0, 0 // until then more may come on top: it is one rebuild
	case h.least == 0:
		h.least = h.left
	default:
		h.least = min(h.least, h.done+h.left)
	}
	if h.left == 0 {
		h.begun, h.rowSpeed, h.byteSpeed = time.Time{}, 0, 0
		h.looked, h.lastDone, h.lastPulled = now, h.done, v.mu.count.rebuildPulled
		return
	}
	if h.begun.IsZero() {
		h.begun = now
	}
	dt := now.Sub(h.looked).Seconds()
	if h.looked.IsZero() || dt <= 0 {
		h.looked, h.lastDone, h.lastPulled = now, h.done, v.mu.count.rebuildPulled
		return
	}
	// In the first seconds the plain mean, then one that forgets.
	weight := 1 - math.Exp(-dt/rateSmooth.Seconds())
	if since := now.Sub(h.begun).Seconds(); since > 0 {
		weight = max(weight, min(1, dt/since))
	}
	h.rowSpeed += (float64(h.done-h.lastDone)/dt - h.rowSpeed) * weight
	h.byteSpeed += (float64(v.mu.count.rebuildPulled-h.lastPulled)/dt - h.byteSpeed) * weight
	h.looked, h.lastDone, h.lastPulled = now, h.done, v.mu.count.rebuildPulled
}

// rebuildReportLocked is nil when nothing is missing that can be filled.
func (v *Volume) rebuildReportLocked(health raid.Health) *RebuildReport {
	h := &v.mu.heal
	if now := time.Now(); now.Sub(h.looked) > guardTick {
		v.progressLocked(now, health)
	}
	if h.left == 0 {
		return nil
	}
	limit, held := h.limit()
	total := h.left + h.lastDone // as of one look
	r := &RebuildReport{
		RowsLeft: h.left, RowsTotal: total, RowsAdded: total - h.least, BytesPerSecond: h.byteSpeed, RemainingSeconds: -1,
		LimitBytes: int64(limit), RateBytes: h.rate, HeldBack: held && limit <= 2*h.byteSpeed, AtRiskSince: h.atRisk,
		Members: []RebuildMember{},
	}
	if h.rowSpeed > rowsStill {
		r.RemainingSeconds = float64(h.left) / h.rowSpeed
	}
	going := false // somebody can be given something
	for i := range v.memberOf {
		m := &v.memberOf[i]
		if m.ref == nil || !m.ref.rebuilding && m.peer.state != peerUp {
			continue
		}
		missing := uint64(v.mu.log.Missing(m.ref.group, m.ref.col))
		if missing == 0 {
			continue
		}
		r.MembersLeft++
		going = going || !m.ref.blocked && m.peer.state == peerUp
		if len(r.Members) == maxRebuildMembers && !m.ref.filling {
			continue
		}
		r.Members = append(r.Members, RebuildMember{
			Group: m.ref.group, Column: m.ref.col, Server: m.peer.id, Chunk: m.chunk,
			RowsLeft: missing, RowsTotal: max(m.ref.rows, missing), Filling: m.ref.filling,
		})
	}
	if r.Blocked = !going; r.Blocked {
		r.RemainingSeconds = -1
	}
	slices.SortStableFunc(r.Members, func(a, b RebuildMember) int { return cmp.Compare(rank(b.Filling), rank(a.Filling)) })
	r.Members = r.Members[:min(len(r.Members), maxRebuildMembers)]
	return r
}

func rank(first bool) int {
	if first {
		return 1
	}
	return 0
}

// healthLocked is how the volume is. Where rows are out of reach it walks them,
// and is then not asked again before twenty times as long has passed, unless
// members came or went.
func (v *Volume) healthLocked() raid.Health {
	h := &v.mu.health
	if !v.mu.healthStale && h.DegradedRows == 0 && h.LostPages == 0 && h.Unreachable == 0 {
		return *h
	}
	start := nanotime()
	if start < v.mu.heal.healthNextWalk {
		return *h
	}
	*h = v.mu.log.Health()
	v.mu.healthStale = false
	if took := nanotime() - start; took > int64(time.Millisecond) {
		v.mu.heal.healthNextWalk = start + 20*took
	}
	return *h
}
