package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// scrubSpread is the part of the interval over which scrubs are spread, so
	// that volumes attached together are not scrubbed together.
	scrubSpread = 10
	// scrubSettling is the least time between the attach of a volume and a
	// scrub that is overdue: a restart has enough to do.
	scrubSettling = time.Minute
	// scrubAgain is the part of the interval after which a scrub that skipped
	// something, or ended early, is repeated.
	scrubAgain = 8
)

// keepScrubbing scrubs the volume whenever it is due, until it is closed.
func (v *Volume) keepScrubbing(ctx context.Context) {
	every := v.cfg.ScrubEvery
	begun := time.Now()
	for {
		v.mu.Lock()
		last := v.mu.scrubbed
		v.mu.Unlock()
		at := nextScrub(last, begun, every, time.Now(), rand.Int64N)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(at)):
		}
		v.mu.Lock()
		now := v.mu.scrubbed
		v.mu.Unlock()
		if now != last {
			continue // somebody asked for one meanwhile
		}
		st, err := v.Scrub(ctx, ScrubOptions{Rate: v.cfg.ScrubRate})
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrScrubRuns):
		case err != nil:
			v.log.Warn("a scrub that was due did not get through", "err", err, "rows", st.RowsDone, "of", st.RowsTotal)
		default:
			continue
		}
		begun = time.Now()
		select {
		case <-ctx.Done():
			return
		case <-time.After(every / scrubAgain):
		}
	}
}

// nextScrub is when the next scrub is due: an interval after the last one that
// went through, or after begun when none is known; sooner when that one left
// something out. n draws a number below its argument.
func nextScrub(last *ScrubStatus, begun time.Time, every time.Duration, now time.Time, n func(int64) int64) time.Time {
	from := begun
	if last != nil && !last.Finished.After(now) {
		from = last.Finished
		if last.SlotsSkipped > 0 {
			every /= scrubAgain
		}
	}
	spread := time.Duration(n(int64(every/scrubSpread) + 1))
	at := from.Add(every - spread)
	if floor := begun.Add(min(scrubSettling, every) + spread/2); at.Before(floor) {
		at = floor
	}
	return at
}
