package peers

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// echoEnv makes the test binary the other process of a round trip.
const echoEnv = "PEERS_TEST_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(echoEnv) != "" {
		if err := Echo(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func echoArgv(t *testing.T) []string {
	t.Helper()
	t.Setenv(echoEnv, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self}
}

func TestRoundTrip(t *testing.T) {
	for _, request := range []int{0, Small} {
		rt, err := MeasureRoundTrip(t.Context(), echoArgv(t), request, Small, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if rt.Request != max(request, minRequest) || rt.Reply != Small || rt.P50 <= 0 || rt.P99 < rt.P50 {
			t.Errorf("%+v", rt)
		}
	}
}

// The smallest plan there is, with real processes.
func TestRunAgainstNbdkit(t *testing.T) {
	for _, tool := range []string{"fio", "nbdkit"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if out, err := exec.Command("fio", "--enghelp=nbd").CombinedOutput(); err != nil {
		t.Skipf("fio has no nbd engine: %s", out)
	}
	for _, front := range []string{"unix", "tcp"} {
		t.Run(front, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cells := []Cell{{Block: Small, Random: true, Depth: 1}, {Block: Large, Write: true, Depth: 32}}
			rep, err := Plan{
				Contenders: Contenders()[:1], Cells: cells, Rounds: 1, Runtime: 50 * time.Millisecond,
				Size: 16 << 20, Front: front, Echo: echoArgv(t), Progress: io.Discard,
			}.Run(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Samples) != len(cells) || len(rep.RoundTrips) != 4 || len(rep.Memory) != 1 || len(rep.Bars) != len(Bars()) {
				t.Fatalf("incomplete: %+v", rep)
			}
			for _, s := range rep.Samples {
				if s.Err != "" || s.IOPS <= 0 || s.Latency.P50 <= 0 {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	good := Plan{Contenders: []Contender{{Name: "c", Memory: func(n int64) int64 { return n }}}, Cells: Cells(), Rounds: 1, Runtime: time.Second, Size: 16 << 20, Front: "unix"}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want  string
		spoil func(*Plan)
	}{
		{"nothing to measure", func(p *Plan) { p.Rounds = 0 }},
		{"nothing to measure", func(p *Plan) { p.Cells = nil }},
		{"front", func(p *Plan) { p.Front = "pigeon" }},
		{"whole MiB", func(p *Plan) { p.Size = 17<<20 + 1 }},
		{"available", func(p *Plan) { p.Size = 1 << 50 }},
		{"needs no-such-program", func(p *Plan) {
			p.Contenders = []Contender{{Name: "c", Needs: []string{"no-such-program"}, Memory: func(int64) int64 { return 0 }}}
		}},
	} {
		p := good
		c.spoil(&p)
		if err := p.check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestCells(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Cells() {
		seen[c.String()] = true
	}
	if len(seen) != 16 || !seen["4k rand read qd32"] || !seen["128k seq write qd1"] {
		t.Errorf("%d cells: %v", len(seen), seen)
	}
}

func TestParseBusy(t *testing.T) {
	d, err := parseBusy([]byte("cpu  100 1 20 5000 300 4 5 6 50 7\ncpu0 1 1 1\n"))
	if want := 1360 * time.Millisecond; err != nil || d != want {
		t.Errorf("got %v, %v, want %v", d, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 x 3 4 5 6 7 8 9"} {
		if _, err := parseBusy([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
