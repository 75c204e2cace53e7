package harden

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/internal/capability"
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

// The line is of a SCHED_FIFO thread; flags 0x180000.
func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 0 -1 %FLAGS% 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 10 1 0 0 0"
	line := func(name, flags string) []byte {
		return []byte("7 (" + name + ")" + strings.Replace(rest, "%FLAGS%", flags, 1))
	}
	got, err := ParseStat(line("a) (b", "1572864"))
	if err != nil || !got.Flusher || got.Policy != unix.SCHED_FIFO {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseStat(line("dmps", "1048576")); err != nil || got.Flusher {
		t.Errorf("with one flag of two: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "7 dmps S", "7 (dmps) S 1 2"} {
		if _, err := ParseStat([]byte(bad)); err == nil {
			t.Errorf("%q is a stat", bad)
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
