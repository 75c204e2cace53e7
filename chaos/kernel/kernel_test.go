package kernel

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"dmps/chaos/kernel/scenario"
	"dmps/chaos/kernel/vm"
)

var (
	cache    = flag.String("kernel-cache", "../../bin/kernel", "folder in which the guests' kernel is kept")
	duration = flag.Duration("kernel-duration", 0, "how long scenarios run that go on for a while")
	seed     = flag.Uint64("kernel-seed", 1, "seed of the scenarios; with -count the next one each time")
)

// short are the scenarios that run without being asked for by -kernel-all.
var (
	all   = flag.Bool("kernel-all", false, "run the long scenarios too")
	short = []string{"boot", "control", "device-nbd", "swap-nbd-rs21", "restart-nbd", "device-ublk", "swap-ublk-rs21", "restart-ublk"}
)

// need skips, or fails where guests are wanted (DMPS_KERNEL=1).
func need(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("DMPS_KERNEL") == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// guestDir is a folder to build in, with the guest's program in it. It skips
// where guests are not wanted, or cannot be had.
func guestDir(t *testing.T) (dir, guest string) {
	t.Helper()
	if testing.Short() {
		t.Skip("a guest takes a while")
	}
	if os.Getenv("DMPS_KERNEL") == "" {
		t.Skip("guests are run by make kernel")
	}
	if _, err := exec.LookPath(vm.Program); err != nil {
		need(t, err)
	}
	dir = t.TempDir()
	guest, err := Build(t.Context(), dir, "dmps/chaos/kernel/guest")
	if err != nil {
		t.Fatal(err)
	}
	return dir, guest
}

// run runs a guest and fails the test unless it succeeds.
func run(t *testing.T, spec Spec) {
	t.Helper()
	r, err := spec.Run(t.Context())
	if errors.Is(err, ErrNoGuest) {
		need(t, err)
	}
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Error(err)
	}
	t.Logf("%v", r.Took.Round(time.Second))
}

// linked is what BuildFabric built.
type linked struct {
	dmps, tests string
	err         error
}

// files are those of a scenario, by path in the guest. It skips where they
// cannot be built.
func (l linked) files(t *testing.T, s scenario.Scenario) map[string]string {
	t.Helper()
	if errors.Is(l.err, ErrNoGuest) {
		need(t, l.err)
	}
	if l.err != nil {
		t.Fatal(l.err)
	}
	if s.Tests {
		return map[string]string{"/bin/fabric.test": l.tests}
	}
	return map[string]string{"/bin/dmps": l.dmps}
}

// round is how often TestScenarios has begun in this process: with -count each
// round has a seed of its own.
var round uint64

// TestScenarios runs each scenario in a guest of its own.
func TestScenarios(t *testing.T) {
	from := *seed + round
	round++
	dir, guest := guestDir(t)
	dmps, err := Build(t.Context(), dir, "dmps/cmd/dmps")
	if err != nil {
		t.Fatal(err)
	}
	fabric := sync.OnceValue(func() linked {
		var l linked
		l.dmps, l.tests, l.err = BuildFabric(t.Context(), dir)
		return l
	})
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			if !*all && !slices.Contains(short, s.Name) {
				t.Skip("a long one: -kernel-all")
			}
			spec := Spec{
				Cache: *cache, Guest: guest, Programs: s.Programs, RDMA: s.RDMA,
				MemoryMiB: s.MemoryMiB, Timeout: s.Timeout, Console: t.Output(),
			}
			if s.RDMA {
				spec.Linked = fabric().files(t, s)
			} else {
				spec.Files = map[string]string{"/bin/dmps": dmps}
			}
			if spec.MemoryMiB == 0 {
				spec.MemoryMiB = 832
			}
			if spec.Timeout == 0 {
				spec.Timeout = 5 * time.Minute
			}
			spec.Timeout += *duration
			spec.Argv = []string{InitPath, "scenario", "-duration", duration.String(), "-seed", strconv.FormatUint(from, 10),
				"-limit", spec.Timeout.String(), s.Name}
			run(t, spec)
		})
	}
}

// TestOutcomes: a guest that panics, hangs or ends without a word is a failure.
func TestOutcomes(t *testing.T) {
	if os.Getenv("DMPS_KERNEL") == "" {
		t.Skip("guests are run by make kernel")
	}
	guest, err := Build(t.Context(), t.TempDir(), "dmps/chaos/kernel/guest")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		how   string
		want  vm.Outcome
		limit time.Duration
	}{
		{"status", vm.Exited, time.Minute}, {"panic", vm.Panicked, time.Minute}, {"vanish", vm.Vanished, time.Minute},
		{"hang", vm.TimedOut, 20 * time.Second},
	} {
		t.Run(c.how, func(t *testing.T) {
			spec := Spec{
				Cache: *cache, Guest: guest, Argv: []string{InitPath, "end", c.how}, MemoryMiB: 256, Timeout: c.limit, Console: t.Output(),
			}
			r, err := spec.Run(t.Context())
			if errors.Is(err, ErrNoGuest) {
				need(t, err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != c.want || r.Outcome == vm.Exited && r.Status != 3 {
				t.Errorf("%v, status %d", r.Outcome, r.Status)
			}
			if r.Err() == nil {
				t.Error("it counts as a success")
			}
		})
	}
}
