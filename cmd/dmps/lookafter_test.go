package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
	"dmps/server/standin"
)

// service is a metadata node in this process, with memory servers that exist
// in its books only.
type service struct {
	t    *testing.T
	node *meta.Node
	dir  string
	c    *metaclient.Client
}

func startService(t *testing.T, servers int) *service {
	t.Helper()
	s := &service{t: t, dir: filepath.Join(t.TempDir(), "meta")}
	var err error
	s.node, err = meta.Start(t.Context(), meta.Config{
		Dir: s.dir, APIListen: "127.0.0.1:0", RaftListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
		SuspectAfter: time.Minute, Grace: 2 * time.Minute, // nobody beats
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.node.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.c, err = metaclient.New([]string{s.node.APIURL()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.c.Close)
	if err := s.node.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range servers {
		s.register(i)
	}
	return s
}

func (s *service) register(i int) {
	s.t.Helper()
	id, life := raid.ServerID(fmt.Sprintf("s%d", i)), raid.Incarnation(i+1)
	err := s.c.Register(s.t.Context(), server.Info{ID: id, Incarnation: life, Addr: standIn(s.t, id, life), MemoryTotal: 1 << 30})
	if err != nil {
		s.t.Fatal(err)
	}
}

// standIn answers the metadata's dial for a server.
func standIn(t *testing.T, id raid.ServerID, life raid.Incarnation) (addr string) {
	t.Helper()
	s, err := standin.Start(id, life)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.Addr()
}

// run runs a command that must end with the code, and gives what it printed.
func (s *service) run(code int, want string, args ...string) string {
	s.t.Helper()
	got, out, errOut := runCLI(append(args, "--meta", s.node.APIURL())...)
	if got != code || !strings.Contains(out+errOut, want) {
		s.t.Errorf("dmps %s: exit code %d, want %d; want %q in:\n%s%s", strings.Join(args, " "), got, code, want, out, errOut)
	}
	return out
}

// TestDrainCommands: a volume that nobody attached yet moves at once.
func TestDrainCommands(t *testing.T) {
	s := startService(t, 7)
	s.run(0, "created", "volume", "create", "v", "--size", "64MiB", "--redundancy", "rs:4+2")
	s.run(exitcode.NotFound, "no server nobody", "server", "drain", "nobody")
	s.run(0, "volume v loses", "server", "remove", "s0", "--dry-run")
	s.run(0, "dmps server drain s0 --wait", "server", "remove", "s0", "--dry-run")
	s.run(exitcode.Failure, "dmps server drain s0 --wait", "server", "remove", "s0")
	s.run(0, "s0 is drained", "server", "drain", "s0", "--wait")
	var d draining
	if err := json.Unmarshal([]byte(s.run(0, "", "server", "drain", "s0", "-o", "json")), &d); err != nil || !d.Drained || d.Chunks != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	s.run(0, "dmps server remove s0", "server", "remove", "s0", "--dry-run")
	// Five servers cannot hold six members: it says why.
	s.run(0, "s1 is being drained", "server", "drain", "s1")
	for begin := time.Now(); !strings.Contains(s.run(0, "", "server", "drain", "s1"), "stuck"); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("nothing is stuck")
		}
	}
	s.run(0, "Start another one", "server", "drain", "s1")
	s.run(0, "not drained any more", "server", "undrain", "s1")
	s.run(exitcode.Usage, "--yes", "server", "remove", "s0")
	s.run(exitcode.Failure, "is up", "server", "remove", "s0", "--yes")
	s.run(exitcode.Failure, "is up", "server", "remove", "s1", "--force", "--yes")
}

func TestRebalanceCommands(t *testing.T) {
	s := startService(t, 3)
	s.run(0, "created", "volume", "create", "v", "--size", "512MiB", "--redundancy", "mirror:2")
	for i := range 3 {
		s.register(3 + i)
	}
	s.run(0, "nothing is being moved", "rebalance", "--watch", "--threshold", "10%")
	for i := range 6 { // what was moved away counts until the servers gave it back
		hb := server.Heartbeat{ID: raid.ServerID(fmt.Sprintf("s%d", i)), Incarnation: raid.Incarnation(i + 1), MemoryTotal: 1 << 30}
		if _, err := s.c.Heartbeat(t.Context(), hb); err != nil {
			t.Fatal(err)
		}
	}
	b, err := balanceOf(t.Context(), s.c)
	if err != nil || b.Fullest.Percent-b.Emptiest.Percent > 10.1 || b.Emptiest.Percent == 0 {
		t.Errorf("still uneven: %+v, %v", b, err)
	}
	s.run(0, `"rebalancing": false`, "rebalance", "--stop", "-o", "json")
	s.run(exitcode.Usage, "1% to 100%", "rebalance", "--threshold", "0")
	s.run(exitcode.Usage, "--threshold", "rebalance", "--stop", "--watch")
}

func TestBackupCommands(t *testing.T) {
	s := startService(t, 3)
	s.run(0, "created", "volume", "create", "v", "--size", "64MiB", "--redundancy", "mirror:2")
	folder := t.TempDir()
	file := filepath.Join(folder, "b")
	s.run(0, "1 volume, 3 memory servers", "meta", "backup", file)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.run(exitcode.Usage, "--yes", "meta", "backup", file)
	s.run(0, `"volumes": 1`, "meta", "backup", file, "--yes", "-o", "json")
	s.run(exitcode.Usage, "cannot be JSON", "meta", "backup", "-", "-o", "json")
	s.run(exitcode.Usage, "is a folder", "meta", "backup", folder)
	if out := s.run(0, "", "meta", "backup", "-"); len(out) < len(first)/2 {
		t.Errorf("a backup of %d bytes on standard output", len(out))
	}
	s.run(exitcode.Failure, "no such file", "meta", "backup", filepath.Join(folder, "none", "b"))
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	s.run(0, "whole and readable", "meta", "verify-backup", file)

	bad := filepath.Join(folder, "bad")
	first[len(first)/2] ^= 1
	if err := os.WriteFile(bad, first, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(exitcode.Failure, "damaged", "meta", "verify-backup", bad)
	into := filepath.Join(folder, "new")
	s.run(exitcode.Failure, "damaged", "meta", "restore", bad, "--dir", into, "--yes")
	s.run(exitcode.Usage, "--yes", "meta", "restore", file, "--dir", into)
	s.run(exitcode.Failure, "not empty", "meta", "restore", file, "--dir", s.dir, "--yes")
	s.run(exitcode.Failure, "nodes of this cluster live", "meta", "restore", file, "--dir", into, "--yes")
	s.run(0, "would be refused", "meta", "restore", file, "--dir", into, "--dry-run")
	s.run(exitcode.NotFound, "not found", "server", "purge", "s9", "--yes")
	s.run(0, "holds no chunks that the metadata does not know", "server", "purge", "s1")

	s.run(exitcode.Failure, "runs on this folder", "meta", "recover", "--dir", s.dir, "--yes")
	s.run(exitcode.Failure, "no metadata node", "meta", "recover", "--dir", folder, "--yes")
	s.run(0, `"state": "up"`, "meta", "list", "-o", "json")
	s.run(exitcode.Failure, "is the last", "meta", "leave", "meta1", "--yes")
	s.run(exitcode.Usage, "--yes", "meta", "leave", "meta1")
	s.run(exitcode.NotFound, "meta list", "meta", "leave", "meta7", "--yes")

	if err := s.node.Close(); err != nil {
		t.Fatal(err)
	}
	s.run(0, "dmps meta --id m9 --dir "+into+" --raft 127.0.0.1:17", "meta", "restore", file, "--dir", into, "--name", "m9", "--raft", "127.0.0.1:17", "--yes")
	s.run(0, "node m9", "meta", "recover", "--dir", into, "--dry-run")
}

func TestTroubles(t *testing.T) {
	st := &metaclient.Status{
		Servers: []metaclient.Server{{ID: "s1", State: metaclient.ServerDraining, Draining: true, Chunks: 3}},
		Volumes: []metaclient.Volume{
			{Name: "a", Pending: 2, RebuildRows: 10, State: client.StateHealthy, Lease: &metaclient.Lease{}},
			{Name: "b", Pending: 1, StuckMembers: 4, StuckReason: "no memory"},
		},
	}
	d, err := drainingFrom(st, "s1")
	if err != nil || d.Drained || d.Chunks != 3 || d.Moving != 3 || d.RowsLeft != 10 || len(d.moves().troubles()) != 3 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := drainingFrom(st, "s2"); err == nil {
		t.Error("a server that is not there is drained")
	}
	for n, want := range map[int]string{1: "nothing is decided", 2: "no failure", 3: "failure of 1", 4: "as 3 would", 5: "failure of 2"} {
		if got := survives(n); !strings.Contains(got, want) {
			t.Errorf("%d nodes: %q, want %q", n, got, want)
		}
	}
}

// Whoever removes a server is told what to do next.
func TestAfterARemoval(t *testing.T) {
	loss := []metaclient.Loss{{Volume: "v", Members: 2, RedundancyLeft: 1}}
	for want, r := range map[string]serverRemoval{
		"removed s1; no group lost a member with it\n": {Server: "s1", Removed: true},
		"removed s1; members lost with it: 2\nhave it filled again on other servers, and see how far that is, with: dmps rebuild v --watch\n":                                                   {Server: "s1", Removed: true, LostMembers: 2, Losses: loss},
		"nothing would be lost with s1\nstop its process, then forget it with: dmps server remove s1\n":                                                                                         {Server: "s1"},
		"volume v loses 2 members: no data, and it can lose 1 more\nwhile it is up, move off what it holds with: dmps server drain s1 --wait\ngive it up with: dmps server remove s1 --force\n": {Server: "s1", Losses: loss},
	} {
		var out strings.Builder
		if err := (&app{out: &out}).printRemoval(r, "table"); err != nil || out.String() != want {
			t.Errorf("%q, not %q: %v", out.String(), want, err)
		}
	}
	for _, state := range []string{metaclient.ServerSuspect, metaclient.ServerDown} {
		var out strings.Builder
		if err := (draining{Server: "s1", State: state, Draining: true, Chunks: 2}).print(&out); err != nil || !strings.Contains(out.String(), "does not answer") || !strings.Contains(out.String(), "dmps rebuild") {
			t.Errorf("%s: %q, %v", state, out.String(), err)
		}
	}
}
