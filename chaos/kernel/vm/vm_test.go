package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pretend puts a script where QEMU is looked for.
func pretend(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Program), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestEnds: every way in which QEMU can end is told apart, and one of them is a
// success.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         Outcome
		status       int
		good         bool
	}{
		{"success", "echo done; exit 1", Exited, 0, true},
		{"status", "echo done; exit 7", Exited, 3, false},
		{"power off", "echo done; exit 0", Vanished, 0, false},
		{"panic", "echo 'Kernel panic - not syncing: Fatal'; exit 0", Panicked, 0, false},
		{"panic and success", "echo 'Kernel panic - not syncing: Fatal'; exit 1", Panicked, 0, false},
		{"panic and hang", "echo 'Kernel panic - not syncing: Fatal'; exec sleep 60", Panicked, 0, false},
		{"hang", "echo booting; exec sleep 60", TimedOut, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pretend(t, c.script)
			var console bytes.Buffer
			limit := time.Minute
			if c.want == TimedOut {
				limit = 500 * time.Millisecond
			}
			r, err := Run(t.Context(), Config{Timeout: limit, Console: &console})
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != c.want || r.Status != c.status || (r.Err() == nil) != c.good {
				t.Errorf("%v, status %d, error %v; want %v, status %d", r.Outcome, r.Status, r.Err(), c.want, c.status)
			}
			if console.Len() == 0 {
				t.Error("nothing on the console")
			}
		})
	}
}

// TestBroken: a QEMU that could not start the guest is an error of its own,
// though it ends with 1 as a guest's success does.
func TestBroken(t *testing.T) {
	pretend(t, "echo 'no such option' >&2; exit 1")
	if r, err := Run(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("%+v, %v", r, err)
	}
	pretend(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if r, err := Run(ctx, Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopped by its caller: %+v, %v", r, err)
	}
}

// TestWatcher: the word of a panic is seen however the console cuts it.
func TestWatcher(t *testing.T) {
	text := []byte("[ 1.0] " + string(panicWord) + ": Fatal exception\n")
	for at := range text {
		n := 0
		w := &watcher{panicked: func() { n++ }}
		for _, part := range [][]byte{text[:at], text[at:], text} {
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if n != 1 || !w.sawPanic() {
			t.Errorf("cut at %d: %d panics", at, n)
		}
	}
}

func TestArgs(t *testing.T) {
	c := Config{Kernel: "k", Initrd: "i", Append: "word=1", Disks: []string{"a,b"}}
	args := c.args()
	for _, pair := range [][2]string{
		{"-accel", "tcg,thread=multi"}, {"-kernel", "k"}, {"-initrd", "i"}, {"-m", "512M"}, {"-smp", "2"},
		{"-drive", "file=a,,b,format=raw,if=virtio,snapshot=on"},
	} {
		if i := slices.Index(args, pair[0]); i < 0 || args[i+1] != pair[1] {
			t.Errorf("%s is not %s in %q", pair[0], pair[1], args)
		}
	}
	line := args[slices.Index(args, "-append")+1]
	for _, word := range []string{"rootfstype=ramfs", "panic=-1", "word=1"} {
		if !slices.Contains(strings.Fields(line), word) {
			t.Errorf("no %s in %q", word, line)
		}
	}
}
