package crashloop

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

var (
	seedFlag     = flag.Uint64("crashloop.seed", 0, "first seed; 0: the fixed ones, and a new one")
	runsFlag     = flag.Int("crashloop.runs", 1, "how many seeds, from -crashloop.seed on")
	timesFlag    = flag.Int("crashloop.times", 1, "how often each of them: what goroutines do differs from time to time")
	durationFlag = flag.Duration("crashloop.duration", 0, "run new seeds for so long, one line a run")
	geometryFlag = flag.String("crashloop.geometry", "", "only this one, such as rs:4+2")
	skipFlag     = flag.String("crashloop.skip", "", "kinds that are not judged, such as early,error")
	withoutFlag  = flag.String("crashloop.without", "", "kinds of moves that do not happen, such as takeover,swapped")
	keepFlag     = flag.Bool("crashloop.keep", false, "go on after a failure")
	logFlag      = flag.Bool("crashloop.log", false, "show what happened, also when all is well")
)

var geometries = []string{"none", "mirror:2", "mirror:3", "rs:2+1", "rs:3+2", "rs:4+2", "rs:2+2"}

// geometryOf is the geometry that a seed runs with, unless a flag says so.
func geometryOf(t testing.TB, seed uint64) raid.Geometry {
	name := geometries[seed%uint64(len(geometries))]
	if *geometryFlag != "" {
		name = *geometryFlag
	}
	g, err := raid.ParseGeometry(name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func once(t *testing.T, seed uint64) bool {
	g := geometryOf(t, seed)
	cfg := Config{Geometry: g}
	for k := range strings.SplitSeq(*skipFlag, ",") {
		cfg.Skip = append(cfg.Skip, Kind(k))
	}
	for m := range strings.SplitSeq(*withoutFlag, ",") {
		cfg.Without = append(cfg.Without, Move(m))
	}
	fmt.Printf("seed %d %v: ", seed, g) // first: a client that panics takes the test with it
	begin := time.Now()
	var res Result
	synctest.Test(t, func(*testing.T) { res = Run(seed, cfg) })
	fmt.Printf("%s (%v)\n", strings.SplitN(res.String(), ": ", 2)[1], time.Since(begin).Round(time.Millisecond))
	if len(res.Wrong) > 0 {
		t.Errorf("seed %d %v:\n   %s\n%s\nagain: go test ./chaos/crashloop -run TestCrashLoop -crashloop.seed %d -crashloop.geometry %v",
			seed, g, strings.Join(res.Wrong, "\n   "), strings.Join(res.Trace, "\n"), seed, g)
		return false
	}
	if *logFlag {
		fmt.Println(strings.Join(res.Trace, "\n"))
	}
	return true
}

func TestCrashLoop(t *testing.T) {
	switch {
	case *durationFlag > 0:
		for end := time.Now().Add(*durationFlag); time.Now().Before(end); {
			if !once(t, rand.Uint64N(1<<32)) && !*keepFlag {
				return
			}
		}
	case *seedFlag != 0:
		for i := range *runsFlag * *timesFlag {
			if !once(t, *seedFlag+uint64(i / *timesFlag)) && !*keepFlag {
				return
			}
		}
	default:
		for seed := range uint64(len(geometries)) {
			once(t, seed+1)
		}
		once(t, rand.Uint64N(1<<32))
	}
}
