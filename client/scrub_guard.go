package client

import (
	"context"
	"time"
)

// A scrub has no hurry: while reads take longer than they did before it began,
// it takes a smaller share of the time. What is measured is the guard's
// (guard.go); a window in which a scrub runs teaches that nothing.
const (
	scrubGoal  = 1.5         // times healthy
	scrubLeast = 1.0 / 32    // share of the time that it always gets, so that it ends
	scrubBack  = 0.5         // what a window that was too slow leaves of the share
	scrubStep  = 1.25        // what a good window makes of it
	scrubRest  = time.Second // longest pause after one list
)

// scrubGuard is the policy's state: the share of the time that a scrub may take.
// Pure policy.
type scrubGuard struct{ share float64 }

// step takes a window in which a scrub ran.
func (g *scrubGuard) step(busy bool, p99, healthy float64) {
	if !busy || healthy == 0 || p99 <= scrubGoal*healthy {
		g.share = min(g.share*scrubStep, 1)
		return
	}
	g.share = max(g.share*scrubBack, scrubLeast)
}

// pause is how long to wait after a list that took took.
func (g *scrubGuard) pause(took time.Duration) time.Duration {
	if g.share >= 1 {
		return 0
	}
	return min(time.Duration(float64(took)*(1/g.share-1)), scrubRest)
}

// yield leaves the time to the foreground that the guard wants for it, after a
// list that took took.
func (s *scrub) yield(ctx context.Context, took time.Duration) error {
	s.v.mu.Lock()
	pause := s.guard.pause(took)
	s.v.mu.Unlock()
	if pause == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
