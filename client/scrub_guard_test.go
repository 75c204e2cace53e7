package client

import (
	"testing"
	"time"
)

// TestScrubGuard: a scrub beside a foreground that suffers from it settles where
// that does not, one beside an idle foreground has all the time, and one that is
// not to blame still ends.
func TestScrubGuard(t *testing.T) {
	const healthy = 1e6
	for _, c := range []struct {
		name        string
		p99         func(share float64) float64
		busy        bool
		least, most float64 // mean share
	}{
		{"hurts nobody", func(float64) float64 { return 1.1e6 }, true, 1, 1},
		{"idle", func(float64) float64 { return 9e6 }, false, 1, 1},
		// The goal of 1.5 ms is reached at a quarter.
		{"hurts", func(share float64) float64 { return healthy * (1 + 2*share) }, true, 0.12, 0.25},
		{"slow for another reason", func(float64) float64 { return 9e6 }, true, scrubLeast, scrubLeast},
	} {
		g := scrubGuard{share: 1}
		sum := 0.0
		for n := range 200 {
			g.step(c.busy, c.p99(g.share), healthy)
			if n >= 100 {
				sum += g.share / 100
			}
			if g.share < scrubLeast || g.share > 1 {
				t.Fatalf("%s: share %v", c.name, g.share)
			}
		}
		if sum < c.least-1e-9 || sum > c.most+1e-9 {
			t.Errorf("%s: mean share %v", c.name, sum)
		}
	}
	// Nothing known of a healthy p99: nothing to compare with.
	g := scrubGuard{share: 1}
	if g.step(true, 1e9, 0); g.share != 1 {
		t.Errorf("share %v without anything to compare with", g.share)
	}
	for share, want := range map[float64]time.Duration{1: 0, 0.5: 20 * time.Millisecond, 0.25: 60 * time.Millisecond, 0.001: scrubRest} {
		if got := (&scrubGuard{share: share}).pause(20 * time.Millisecond); got != want {
			t.Errorf("share %v: pause of %v, not %v", share, got, want)
		}
	}
}
