package crashloop

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

var (
	seedFlag     = flag.Uint64("crashloop.seed", 0, "first seed; 0: some that are always the same, and some new ones")
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

// stuck is how long a run may take by the real clock. Most take a tenth of a second.
const stuck = 5 * time.Minute

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

// once runs a seed. It reports whether all was as promised.
func once(t *testing.T, seed uint64) bool {
	var mu sync.Mutex
	var trace []string
	cfg := Config{Geometry: geometryOf(t, seed), Note: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		trace = append(trace, line)
	}}
	for k := range strings.SplitSeq(*skipFlag, ",") {
		cfg.Skip = append(cfg.Skip, Kind(k))
	}
	for m := range strings.SplitSeq(*withoutFlag, ",") {
		cfg.Without = append(cfg.Without, Move(m))
	}
	fmt.Printf("seed %d %v: ", seed, cfg.Geometry) // first: a client that panics takes the test with it
	begin := time.Now()
	dog := time.AfterFunc(stuck, func() {
		debug.SetTraceback("all")
		mu.Lock()
		panic(fmt.Sprintf("seed %d %v is stuck:\n%s", seed, cfg.Geometry, strings.Join(trace, "\n")))
	})
	defer dog.Stop()
	var res Result
	synctest.Test(t, func(*testing.T) { res = Run(seed, cfg) })
	fmt.Printf("%s (%v)\n", strings.SplitN(res.String(), ": ", 2)[1], time.Since(begin).Round(time.Millisecond))
	if len(res.Wrong) > 0 {
		t.Errorf("seed %d %v:\n   %s\n%s\nagain: go test ./chaos/crashloop -run TestCrashLoop -crashloop.seed %d -crashloop.geometry %v -crashloop.times 50",
			seed, cfg.Geometry, strings.Join(res.Wrong, "\n   "), strings.Join(trace, "\n"), seed, cfg.Geometry)
		return false
	}
	if *logFlag {
		fmt.Println(strings.Join(trace, "\n"))
	}
	return true
}

// TestCrashLoop runs two seeds of each geometry, one of them new, or what its flags
// say: docs/chaos.md.
func TestCrashLoop(t *testing.T) {
	more := func(seed uint64) bool { return once(t, seed) || *keepFlag }
	switch {
	case *durationFlag > 0:
		for end := time.Now().Add(*durationFlag); time.Now().Before(end) && more(1+rand.Uint64N(1<<32)); {
		}
	case *seedFlag != 0:
		for i := range *runsFlag * *timesFlag {
			if !more(*seedFlag + uint64(i / *timesFlag)) {
				return
			}
		}
	default:
		// About one run in 1,000 a volume is refused that need not be, and loses nothing
		// (docs/failure.md, Known faults): that is what the long runs are for.
		*skipFlag = strings.TrimPrefix(*skipFlag+","+string(Refused), ",")
		first := uint64(len(geometries)) * rand.Uint64N(1<<32)
		for i := range uint64(len(geometries)) {
			once(t, 1+i)
			once(t, 1+first+i)
		}
	}
}
