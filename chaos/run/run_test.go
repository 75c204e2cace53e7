package run

import (
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dmps/chaos/plan"
	"dmps/raid"
)

var (
	seed     = flag.Uint64("chaos.seed", 0, "first seed of TestNewSeed; 0: a new one each time")
	runs     = flag.Int("chaos.runs", 1, "how many seeds TestNewSeed tries")
	duration = flag.Duration("chaos.duration", 4*time.Second, "of each of them")
)

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		victim()
	}
	goleak.VerifyTestMain(m)
}

func runInProcess(t *testing.T, p *plan.Plan) *Report {
	t.Helper()
	o := Options{}
	c := InProcessConfig{Dir: t.TempDir(), Plan: p}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
		c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	}
	target, err := StartInProcess(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), target, p, o)
	if cerr := target.Close(); cerr != nil {
		t.Errorf("closing the cluster: %v", cerr)
	}
	if r != nil {
		t.Logf("\n%v", r)
	}
	if err != nil {
		t.Fatalf("%v\n%v", err, p)
	}
	if err := r.Err(); errors.Is(err, ErrStarved) {
		t.Skip(err)
	} else if err != nil {
		t.Errorf("not as promised; the plan was\n%v", p)
	}
	return r
}

// TestNewSeed runs plans that nobody has seen.
func TestNewSeed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1 << 32)
	}
	for i := range *runs {
		s := first + uint64(i)
		g := []raid.Geometry{{K: 4, M: 2}, {K: 1, M: 2}, {K: 2, M: 1}}[s%3]
		p := plan.New(s, plan.Options{Redundancy: g, Servers: g.Members() + 2, Meta: 3, Duration: *duration})
		t.Run(g.String(), func(t *testing.T) {
			t.Logf("repeat with: go test ./chaos/run -run TestNewSeed -chaos.seed %d -chaos.duration %v", s, *duration)
			runInProcess(t, p)
		})
	}
}

// TestKept runs the plans that found something, and the tour of all faults.
func TestKept(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	files, err := filepath.Glob("../testdata/*.plan")
	if err != nil || len(files) == 0 {
		t.Fatalf("no plans: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel() // they mostly wait
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			p, err := plan.Parse(string(b))
			if err != nil {
				t.Fatal(err)
			}
			r := runInProcess(t, p)
			for _, f := range r.Faults {
				if f.Skipped == "" && f.Ended < f.Began {
					t.Errorf("never over: %+v", f)
				}
			}
		})
	}
}
