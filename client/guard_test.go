package client

import (
	"math"
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// model is a foreground whose p99 depends on what the rebuild is allowed.
type model struct {
	full  float64                    // bytes a second of a rebuild without a limit
	p99   func(rate float64) float64 // of reads, while the rebuild runs at a rate
	reads int                        // of a window
	noise float64                    // of the p99 of a window, a share of it
}

// run takes the guard through n windows and gives the mean rate and the share
// of windows whose true p99 was above limit, both of the second half.
func (m model) run(g *guard, n int, limit float64, atRisk bool) (rate, above float64) {
	r := rand.New(rand.NewPCG(1, 1))
	half := 0
	for i := range n {
		moved := m.full
		if g.limit > 0 {
			moved = min(moved, g.limit)
		}
		p := m.p99(moved)
		g.step(guardSample{reads: m.reads, p99: p * (1 + m.noise*(r.Float64()*2-1)), filling: true, rate: moved, atRisk: atRisk})
		if i < n/2 {
			continue
		}
		half++
		rate += moved
		if p > limit {
			above++
		}
	}
	return rate / float64(half), above / float64(half)
}

const mb = 1 << 20

// linear is a p99 that grows from 1 ms by 1 ms for each step of rate.
func linear(step float64) func(float64) float64 {
	return func(rate float64) float64 { return 1e6 * (1 + rate/step) }
}

func healthyGuard(reads int) *guard {
	g := &guard{}
	for range 50 {
		g.step(guardSample{reads: reads, p99: 1e6, whole: true})
	}
	return g
}

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		name        string
		m           model
		atRisk      bool
		least, most float64 // of the mean rate
		above       float64 // most windows with a p99 above 2 ms
	}{
		{"idle foreground: full speed", model{full: 1000 * mb, p99: linear(mb), reads: 0}, false, 999 * mb, math.Inf(1), 1},
		{"rebuild that hurts nobody", model{full: 400 * mb, p99: linear(4000 * mb), reads: 500}, false, 399 * mb, math.Inf(1), 0},
		// 2 ms are reached at 200 MiB/s, the goal of 1.5 ms at 100.
		{"rebuild that hurts", model{full: 1000 * mb, p99: linear(200 * mb), reads: 500}, false, 50 * mb, 110 * mb, 0.02},
		{"noisy p99", model{full: 1000 * mb, p99: linear(200 * mb), reads: 500, noise: 0.3}, false, 30 * mb, 110 * mb, 0.05},
		// Whatever it does, reads take long: it must not crawl for nothing.
		{"slow for another reason", model{full: 1000 * mb, p99: func(float64) float64 { return 5e6 }, reads: 500}, false, 500 * mb, math.Inf(1), 1},
		{"at risk: half of full speed at least", model{full: 1000 * mb, p99: linear(200 * mb), reads: 500}, true, 499 * mb, math.Inf(1), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := healthyGuard(c.m.reads)
			g.begin(c.atRisk)
			rate, above := c.m.run(g, 2000, 2e6, c.atRisk)
			if rate < c.least || rate > c.most || above > c.above {
				t.Errorf("mean rate %.0f MiB/s, %.1f %% of the windows above; %+v", rate/mb, above*100, *g)
			}
		})
	}
}

// TestGuardNeverStarves: whatever the windows show, the limit is at least the
// floor, and none is set without a busy foreground for long.
func TestGuardNeverStarves(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for seed := range 200 {
		g := healthyGuard(500)
		g.begin(seed%2 == 0)
		for range 200 {
			atRisk := r.IntN(2) == 0
			g.step(guardSample{
				reads: r.IntN(2) * 500, p99: math.Exp(r.Float64()*20 - 2), filling: r.IntN(4) > 0,
				rate: math.Exp(r.Float64() * 24), atRisk: atRisk, whole: r.IntN(3) == 0,
			})
			if g.limit != 0 && g.limit < guardFloor {
				t.Fatalf("the rebuild starves at %.0f bytes a second: %+v", g.limit, *g)
			}
			if atRisk && g.limit != 0 && g.limit < guardFloor {
				t.Fatalf("half of %.0f was promised: %+v", g.peak, *g)
			}
		}
		for range 200 {
			g.step(guardSample{filling: true, rate: 300 * mb})
		}
		if g.limit != 0 {
			t.Fatalf("nobody reads, and the rebuild is held back: %+v", *g)
		}
	}
}

// TestGuardLearnsWithoutHealth: a client that was restarted while a member was
// missing knows no healthy p99. It starts at the least it can give, takes what
// it sees there for the measure, and goes up from it.
func TestGuardLearnsWithoutHealth(t *testing.T) {
	g := &guard{}
	for range 20 {
		g.step(guardSample{reads: 500, p99: 1e6}) // something is missing
	}
	if g.healthy != 0 || g.calm == 0 {
		t.Fatalf("%+v", *g)
	}
	for _, known := range []bool{true, false} {
		if !known {
			g = &guard{busy: true}
		}
		g.begin(false)
		if g.limit == 0 {
			t.Fatal("it starts at full speed beside a busy foreground")
		}
		m := model{full: 1000 * mb, p99: linear(200 * mb), reads: 500, noise: 0.05}
		rate, above := m.run(g, 2000, 2e6, false)
		if rate < 10*mb || above > 0.05 {
			t.Errorf("calm known %v: mean rate %.0f MiB/s, %.1f %% of the windows above; %+v", known, rate/mb, above*100, *g)
		}
	}
}

// TestGuardGetsUpToSpeed: beside a foreground that does not suffer the first
// seconds are not spent in starting.
func TestGuardGetsUpToSpeed(t *testing.T) {
	g := healthyGuard(500)
	g.begin(false)
	m := model{full: 800 * mb, p99: linear(10_000 * mb), reads: 500}
	windows := 0
	for moved := 0.0; moved < m.full; windows++ {
		moved = m.full
		if g.limit > 0 {
			moved = min(moved, g.limit)
		}
		g.step(guardSample{reads: 500, p99: m.p99(moved), filling: true, rate: moved})
		if windows > 10 {
			t.Fatalf("after %d windows: %+v", windows, *g)
		}
	}
	if rate, _ := m.run(g, 100, 2e6, false); rate != m.full {
		t.Fatalf("held back to %.0f MiB/s: %+v", rate/mb, *g)
	}
}

func TestBucketsOfAWindow(t *testing.T) {
	var l latency
	for range 1000 {
		l.add(5e6)
	}
	before := l.ever
	if n := l.ever.since(&before); n != 0 || l.ever.Quantile(&before, 0.99) != 0 {
		t.Fatal("an empty window has times")
	}
	for i := range 1000 {
		l.add(1000 + int64(i)*10) // 1 to 11 µs
	}
	for q, want := range map[float64]float64{0.5: 6000, 0.99: 10_900} {
		if got := l.ever.Quantile(&before, q); math.Abs(got-want) > want*0.15 {
			t.Errorf("quantile %v is %.0f, want %.0f: what was before the window counts?", q, got, want)
		}
	}
	if n := l.ever.since(&before); n != 1000 {
		t.Errorf("%d times in the window", n)
	}
	b := BucketBounds()
	for _, ns := range []int64{8, 1000, 123456, 1e9} {
		i := bucketOf(ns)
		if ns >= b[i] || ns < b[i-1] {
			t.Errorf("%d ns fell into bucket [%d, %d)", ns, b[i-1], b[i])
		}
	}
}

// TestGuardModes: only without --rebuild-guard strict does a rebuild come before
// latency once no further loss can be borne.
func TestGuardModes(t *testing.T) {
	left, none := raid.Health{RedundancyLeft: 1}, raid.Health{RedundancyLeft: 0}
	for _, c := range []struct {
		mode   GuardMode
		health raid.Health
		want   bool
	}{{GuardOn, left, false}, {GuardOn, none, true}, {GuardStrict, left, false}, {GuardStrict, none, false}} {
		h := healState{mode: c.mode}
		if got := h.pressing(c.health); got != c.want {
			t.Errorf("mode %d, redundancy left %d: %v", c.mode, c.health.RedundancyLeft, got)
		}
	}
	for mode, want := range map[GuardMode]bool{GuardOn: true, GuardStrict: true, GuardOff: false} {
		h := healState{mode: mode, running: true, guard: guard{limit: 1}}
		if _, held := h.limit(); held != want {
			t.Errorf("mode %d holds back: %v", mode, held)
		}
	}
}
