package harden

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/internal/capability"
	"dmps/internal/procstat"
)

// TestMain is the program that hardens itself, when the variable says so.
func TestMain(m *testing.M) {
	if os.Getenv("HARDEN_SELF") == "1" {
		for _, err := range Self(Options{Priority: 1}) {
			os.Stdout.WriteString(err.Error() + "\n")
		}
		os.Stdout.WriteString("done\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The program executes itself again once, and says what it could not get: on a
// machine without the rights all of it, with a reason, and otherwise nothing.
func TestSelf(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "HARDEN_SELF=1")
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Count(out, "done\n") != 1 || strings.Contains(out, "executing the program again") {
		t.Fatalf("it did not execute itself once: %s", out)
	}
	for word, right := range map[string]uint{
		"I/O flushers": unix.CAP_SYS_RESOURCE, "SCHED_RR": unix.CAP_SYS_NICE, "OOM killer": unix.CAP_SYS_RESOURCE,
	} {
		if missing := strings.Contains(out, word); missing == capability.Has(right) {
			t.Errorf("%s missing: %v, capability %d: %v\n%s", word, missing, right, capability.Has(right), out)
		}
	}
}

// A process that inherits the marker of another one (a hardened parent, an
// environment that was copied) executes itself once, and one that does so again and
// again gives up and says what to unset.
func TestInheritedMarker(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(marker ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, exe)
		cmd.Env = append(os.Environ(), "HARDEN_SELF=1")
		cmd.Env = append(cmd.Env, marker...)
		b, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(b), "done\n") != 1 {
			t.Fatalf("%q: %v: %s", marker, err, b)
		}
		return string(b)
	}
	want := run()
	for _, inherited := range []string{"DMPS_HARDENED=1", "DMPS_HARDENED=1 3", "DMPS_HARDENED=", "DMPS_HARDENED=x y"} {
		if got := run(inherited); threads.ReplaceAllString(got, "") != threads.ReplaceAllString(want, "") {
			t.Errorf("%s: %s, without: %s", inherited, got, want)
		}
	}
	if got := run("DMPS_HARDENED=1 4"); !strings.Contains(got, "unset DMPS_HARDENED") {
		t.Errorf("after 4 rounds: %s", got)
	}
}

// threads are the numbers of those that a run counts, which vary.
var threads = regexp.MustCompile(`\d+ of \d+`)

func TestFlusher(t *testing.T) {
	for flags, want := range map[uint64]bool{0x180000: true, 0x188000: true, 0x100000: false, 0: false} {
		if got := Flusher(procstat.Task{Flags: flags}); got != want {
			t.Errorf("flags %#x: %v", flags, got)
		}
	}
	if all, err := tasks(); err != nil || len(all) == 0 {
		t.Errorf("%d threads of this process: %v", len(all), err)
	}
}

func TestLower(t *testing.T) {
	file := filepath.Join(t.TempDir(), "oom_score_adj")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if missing := lower(file); len(missing) > 0 {
		t.Error(missing)
	}
	if b, err := os.ReadFile(file); string(b) != "-1000" {
		t.Errorf("%q, %v", b, err)
	}
	if missing := lower(filepath.Join(file, "none")); len(missing) != 1 {
		t.Errorf("a file that cannot be written: %v", missing)
	}
}
