package paper

import (
	"bytes"
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// apps are small, and only those whose programs this machine has.
func apps(t *testing.T) []App {
	t.Helper()
	all := []App{Sort(20000), SQLite(2000)}
	if out, err := exec.Command("gcc", "-print-prog-name=cc1").Output(); err == nil {
		all = append(all, Compile(strings.TrimSpace(string(out)), 50))
	}
	var have []App
	for _, a := range all {
		if _, err := exec.LookPath(a.Argv[0]); err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		have = append(have, a)
	}
	if len(have) == 0 {
		t.Skip("this machine has none of the programs")
	}
	return have
}

func TestApps(t *testing.T) {
	for _, a := range apps(t) {
		t.Run(a.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			m, err := a.Run(ctx, nil)
			if err != nil || m.Seconds <= 0 {
				t.Fatalf("%+v, %v", m, err)
			}
		})
	}
}

// TestAppsJudge: output that is cut short, empty, or from too little input is
// not right.
func TestAppsJudge(t *testing.T) {
	for _, a := range apps(t) {
		t.Run(a.Name, func(t *testing.T) {
			// Input is read to its end, the output is nothing.
			a.Argv = []string{"sh", "-c", "cat >/dev/null"}
			if _, err := a.Run(t.Context(), nil); err == nil {
				t.Error("a program that says nothing is believed")
			}
			a.Argv = []string{"sh", "-c", "cat >/dev/null; exit 3"}
			if _, err := a.Run(t.Context(), nil); err == nil {
				t.Error("a program that fails is believed")
			}
		})
	}
}

// TestSortJudgeOtherLines: sorted, as many, but not those that were given.
func TestSortJudgeOtherLines(t *testing.T) {
	a := Sort(1000)
	if err := a.Input(io.Discard); err != nil {
		t.Fatal(err)
	}
	other := bytes.Repeat([]byte(strings.Repeat("x", lineLen-1)+"\n"), 1000)
	if err := a.Judge(bytes.NewReader(other)); err == nil {
		t.Error("other lines were taken for the given ones")
	}
}

// TestSortKeepsToMemory: it must swap, not spill into files.
func TestSortKeepsToMemory(t *testing.T) {
	if _, err := exec.LookPath("sort"); err != nil {
		t.Skip(err)
	}
	// App.Run points TMPDIR to a folder that does not exist: one file and it fails.
	if _, err := Sort(200000).Run(t.Context(), nil); err != nil {
		t.Error(err)
	}
	// That this would be noticed:
	a := Sort(200000)
	a.Argv = []string{"sort", "--parallel=1", "--buffer-size=1M"}
	if _, err := a.Run(context.Background(), nil); err == nil {
		t.Error("sort spilled into files, and nobody noticed")
	}
}
