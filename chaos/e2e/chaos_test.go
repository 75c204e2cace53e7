package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"dmps/chaos/plan"
	torment "dmps/chaos/run"
	"dmps/raid"
)

// chaosTime is how long each of the plans here is; heals come on top.
const chaosTime = 25 * time.Second

// breakAll runs a plan of a new seed against real processes.
func breakAll(t *testing.T, g raid.Geometry) {
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	seed := rand.Uint64N(1 << 32)
	p := plan.New(seed, plan.Options{Redundancy: g, Servers: g.Members() + 2, Meta: 3, Duration: chaosTime})
	t.Logf("again: chaos --target processes --seed %d --duration %v --redundancy %v --servers %d --meta-nodes 3", seed, chaosTime, g, p.Servers)
	// Unix socket paths are short, and t.TempDir is not.
	dir, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	target, err := torment.StartProcesses(ctx, torment.ProcessesConfig{Bin: dmpsBin, Dir: dir, Plan: p})
	if err != nil {
		t.Fatal(err)
	}
	r, err := torment.Run(ctx, target, p, torment.Options{})
	if cerr := target.Close(); cerr != nil {
		t.Errorf("ending the cluster: %v", cerr)
	}
	if r != nil {
		t.Logf("\n%v", r)
	}
	if err == nil {
		err = r.Err()
	}
	if err == nil || errors.Is(err, torment.ErrStarved) {
		if rerr := os.RemoveAll(dir); rerr != nil {
			t.Error(rerr)
		}
		if err != nil {
			t.Skip(err)
		}
		return
	}
	if serr := r.Save(dir); serr != nil {
		t.Error(serr)
	}
	t.Fatalf("%v\nplan, history, report and logs are in %s; the plan was\n%v", err, dir, p)
}

// Processes are killed, frozen and cut off from each other by a plan that nobody
// has seen: what clients saw is linearizable, and everything heals by itself.
func TestChaosRS(t *testing.T) { breakAll(t, raid.Geometry{K: 4, M: 2}) }

// The same for three copies.
func TestChaosMirror(t *testing.T) { breakAll(t, raid.Geometry{K: 1, M: 2}) }
