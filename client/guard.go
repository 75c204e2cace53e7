package client

import "time"

// The guard holds a rebuild back when the foreground suffers from it. What it
// watches is the p99 of the reads that front ends get, in short windows; what it
// sets is the rate at which servers may pull for this volume (internal/pace), from
// which the size of lists and the pauses between them follow.
//
// It cannot tell why reads take longer: from the rebuild, from reads that have
// to be decoded because a member is gone, or from a load that grew. So it
// compares with two things: healthy, the p99 when nothing was missing, times
// guardGoal; and calm, the p99 that remained when the rebuild was all but
// stopped, times guardCalm. Holding back further than that gains nobody
// anything, and a rebuild that ends is what brings healthy latency back.
//
// Additive increase, multiplicative decrease: a rebuild beside a busy
// foreground starts slowly and doubles until the first window that is too
// slow, then goes on by a tenth to a quarter of its own rate. A foreground that
// is idle holds nothing back. It never falls below a floor, so that it ends:
// a twentieth of the highest speed, but where no further loss can be borne
// half of it, because then data at risk counts for more than latency.
//
// Pure policy: windows in, a rate out; no clock, no lock.

const (
	guardGoal = 1.5  // times healthy: below the 2 that is promised, since p99 of a window scatters
	guardCalm = 1.25 // times calm
	guardBack = 0.5  // what a window that was too slow leaves of the rate
	guardStep = 0.05 // of the highest speed seen, or twice that of the rate: what a good window adds
	guardLeap = 0.25 // of the rate: what it adds at most, or a slow rate would swing far beyond its goal and back
	guardIdle = 4    // reads of a window from which on the foreground counts as busy

	guardStart   = 16 << 20 // bytes a second at the start, beside a busy foreground
	guardFloor   = 4 << 20  // least rate, bytes a second
	guardShare   = 0.05     // least rate as a share of the highest speed seen
	guardAtRisk  = 0.5      // the same where no further loss can be borne
	guardPatient = 3        // windows at the floor after which what is left of the p99 is not the rebuild's

	// guardTick is how often the guard looks while a rebuild runs, guardRest
	// otherwise. A window is as many ticks as it takes for guardReads reads, so
	// that its p99 is more than its slowest read; at most guardWindow.
	guardTick   = 100 * time.Millisecond
	guardRest   = time.Second
	guardReads  = 400
	guardWindow = 500 * time.Millisecond
)

// GuardMode is how far the guard holds a rebuild back.
type GuardMode uint8

const (
	// GuardOn keeps reads within their goal while a further loss can be borne.
	// Once none can, data at risk counts for more than latency.
	GuardOn GuardMode = iota
	// GuardStrict keeps reads within their goal whatever is at risk, for as long as
	// that takes.
	GuardStrict
	// GuardOff lets rebuilds take what they can get.
	GuardOff
)

// guardSample is one window.
type guardSample struct {
	reads    int     // of front ends that ended in it
	p99      float64 // of them, nanoseconds
	filling  bool    // the rebuild ran during all of it
	scrubbed bool    // a scrub ran: what reads took is not what they usually take
	rate     float64 // bytes a second that it pulled
	whole    bool    // nothing is missing: no member is down and none misses rows
	atRisk   bool    // no further loss can be borne
}

// guard is the policy's state. The zero value knows nothing yet.
type guard struct {
	healthy float64 // usual p99 with nothing missing, ns; 0: not known
	calm    float64 // p99 that remains without the rebuild although something is missing; 0: not known
	peak    float64 // highest rate of the rebuild, bytes a second; fades while there is no limit
	limit   float64 // what it may have; 0: no limit
	floor   float64 // least limit
	busy    bool    // the foreground, in the last window
	slow    bool    // before the first cut: the rate doubles
	low     int     // windows in a row at the floor that were too slow all the same
	rest    bool    // the last window was cut: what follows is still its effect
}

// begin is the start of a rebuild.
func (g *guard) begin(atRisk bool) {
	g.setFloor(atRisk)
	g.limit, g.slow, g.low, g.rest = 0, true, 0, false
	if g.busy && !atRisk {
		g.limit = max(g.floor, guardStart)
	}
}

func (g *guard) setFloor(atRisk bool) {
	g.floor = max(guardFloor, guardShare*g.peak)
	if atRisk {
		g.floor = max(guardFloor, guardAtRisk*g.peak)
	}
}

// step takes a window that has ended.
func (g *guard) step(s guardSample) {
	g.busy = s.reads >= guardIdle
	g.setFloor(s.atRisk)
	if !s.filling {
		switch {
		case !g.busy, s.scrubbed:
		case s.whole:
			follow(&g.healthy, s.p99)
			g.calm = 0
		default:
			follow(&g.calm, s.p99)
		}
		return
	}
	if g.limit == 0 {
		g.peak *= 0.99
	}
	g.peak = max(s.rate, g.peak)
	g.calm *= 0.998
	if !g.busy {
		g.calm, g.low, g.rest = 0, 0, false
		g.raise(g.limit, s.rate)
		return
	}
	switch allowed := max(guardGoal*g.healthy, guardCalm*g.calm); {
	case allowed > 0 && s.p99 <= 0.9*allowed:
		g.low, g.rest = 0, false
		if g.slow {
			g.raise(g.limit, s.rate)
			return
		}
		g.raise(max(min(guardStep*g.peak, guardLeap*g.limit), guardStep*2*g.limit), s.rate)
	case allowed > 0 && s.p99 <= allowed:
		g.low, g.rest = 0, false
	case g.limit != 0 && g.limit <= g.floor:
		g.limit = g.floor
		if g.low++; g.low >= guardPatient || allowed == 0 {
			// The cuts before were for nothing.
			g.calm, g.slow, g.low = s.p99, true, 0
		}
	case g.rest:
		g.rest = false
	default:
		if g.limit == 0 || g.limit > s.rate && s.rate > 0 {
			g.limit = s.rate
		}
		g.limit = max(g.limit*guardBack, g.floor)
		g.slow, g.rest = false, true
	}
}

// raise adds to the limit, unless it is well above the rate: then it is not
// what holds the rebuild back, and goes when nobody is there to be guarded.
func (g *guard) raise(by, rate float64) {
	if g.limit == 0 {
		return
	}
	switch {
	case g.limit <= 2.5*rate:
		g.limit = max(g.limit+by, g.floor)
	case !g.busy:
		g.limit = 0
	}
}

// follow moves an average towards x; the first value is taken as it is.
func follow(avg *float64, x float64) {
	if *avg == 0 {
		*avg = x
		return
	}
	*avg += (x - *avg) / 8
}
