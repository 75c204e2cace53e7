package rig

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Spec{Name: "script", Argv: []string{"/bin/sh", "-c", script}, Env: []string{"WHO=you"}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-p.Done()
	})
	return p
}

func TestProcess(t *testing.T) {
	p := start(t, `echo "hello $WHO"; exec sleep 60`)
	err := p.WaitFor(t.Context(), func() error {
		if !strings.Contains(Tail(p.Log, 1), "hello you") {
			return os.ErrNotExist
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !Alive(p.PID()) {
		t.Error("running, but not alive")
	}
	for range 2 { // the second time it is gone already
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if Alive(p.PID()) || !strings.Contains(p.Exited(), "terminated") {
		t.Errorf("after Stop: alive %v, %s", Alive(p.PID()), p.Exited())
	}
}

func TestWaitForTellsWhy(t *testing.T) {
	never := func() error { return os.ErrNotExist }
	p := start(t, "echo no such luck; exit 3")
	if err := p.WaitFor(t.Context(), never); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("ended: %v", err)
	}
	p = start(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.WaitFor(ctx, never); err == nil || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("too late: %v", err)
	}
}

func TestTree(t *testing.T) {
	p := start(t, "sleep 60 & echo child $!; wait")
	var tree []int
	if err := p.WaitFor(t.Context(), func() (err error) {
		if tree, err = Tree(p.PID()); err == nil && len(tree) < 2 {
			err = os.ErrNotExist
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if tree[0] != p.PID() || len(tree) != 2 {
		t.Errorf("tree %v of %d", tree, p.PID())
	}
	// The child is not ours to wait for: end it by its id.
	if err := syscall.Kill(tree[1], syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	<-p.Done()
}

func TestUsage(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before.Peak < 1<<20 {
		t.Errorf("a Go program in %d bytes", before.Peak)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		now, err := UsageOf(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now.CPU > before.CPU {
			return
		}
		if time.Now().After(end) {
			t.Fatal("ten seconds of work, and no CPU time on the account")
		}
	}
}

func TestParseStat(t *testing.T) {
	st, err := parseStat([]byte("77 (a (b) c) S 5 77 77 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0"))
	if want := (procStat{state: 'S', parent: 5, ticks: 100}); err != nil || st != want {
		t.Errorf("got %+v, %v, want %+v", st, err, want)
	}
	for _, bad := range []string{"", "77 (x", "77 (x) S 5", "77 (x) S y 77 77 0 -1 4194560 1 2 3 4 10 20 30 40", "77 (x) S 5 77 77 0 -1 4194560 1 2 3 4 10 20 -30 40", ")\x00 0 0 0 0 0 0 0 0 0 0 0 0 0 0"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("77 (a (b) c) S 5 77 77 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := parseStat(b); err == nil && st.state == 0 {
			t.Errorf("no state in %q", b)
		}
	})
}

func TestParseCluster(t *testing.T) {
	const good = `{"nbd":"nbd://127.0.0.1:1/v","meta":[{"id":"m1","pid":2,"api":"http://127.0.0.1:3","argv":["dmps","meta"]}],
		"servers":[{"id":"s1","pid":4,"addr":"127.0.0.1:5","argv":["dmps","server"]}],"client":{"pid":6,"argv":["dmps","attach"]},"more":1}`
	c, err := ParseCluster([]byte(good))
	if err != nil || c.Servers[0].Addr != "127.0.0.1:5" || c.Meta[0].API != "http://127.0.0.1:3" || c.Client.PID != 6 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []struct{ old, new, want string }{
		{`"nbd://`, `"http://`, "URI"},
		{`"pid":4`, `"pid":0`, "servers[0]"},
		{`["dmps","attach"]`, `[]`, "client[0]"},
		{`"meta":[`, `"atem":[`, "meta is empty"},
		{`"more":1}`, ``, "cluster.json"},
	} {
		if _, err := ParseCluster([]byte(strings.Replace(good, bad.old, bad.new, 1))); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("with %s: %v, want an error with %q", bad.new, err, bad.want)
		}
	}
}

func TestDevArgv(t *testing.T) {
	t.Setenv("DMPS_E2E_TRANSPORT", "")
	t.Setenv("DMPS_E2E_RAILS", "")
	argv := DevConfig{Bin: "/b", Dir: "/d", Servers: 6, Redundancy: "rs:4+2"}.argv()
	if want := []string{"/b", "dev", "--dir", "/d", "--servers", "6", "--redundancy", "rs:4+2"}; !slices.Equal(argv, want) {
		t.Errorf("got %q, want %q", argv, want)
	}
}

// A dev that ends before it serves is told with its output.
func TestStartDevFails(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "dmps")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\necho cannot: $*; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := StartDev(t.Context(), DevConfig{Bin: bin, Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "cannot: dev --dir") {
		t.Errorf("got %v", err)
	}
}
