package meta

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/state"
	"dmps/meta/store"
	"dmps/raid"
	"dmps/server"
)

// metric reads one of a node's metrics, without labels.
func metric(t *testing.T, n *Node, name string) string {
	t.Helper()
	res, err := http.Get(n.APIURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no metric %s", name)
	return ""
}

// sameStates waits until all nodes have applied the same commands, and compares
// what came of them.
func sameStates(t *testing.T, nodes []*Node, servers int) {
	t.Helper()
	eventually(t, "all nodes have the same state", func() bool {
		for _, n := range nodes {
			if n.disks.state.Applied() != nodes[0].disks.state.Applied() {
				return false
			}
		}
		return true
	})
	for _, n := range nodes {
		if err := n.disks.state.View(func(s *state.State) {
			if err := s.Check(); err != nil || len(s.Servers) < servers {
				t.Errorf("%s has %d of %d servers: %v", n.cfg.Name, len(s.Servers), servers, err)
			}
		}); err != nil {
			t.Error(err)
		}
	}
}

// The disk of the leader's log is full: it says so and falls silent, another
// node leads, and it follows when there is room.
func TestLeaderWithAFullLog(t *testing.T) {
	t.Parallel()
	var full [3]atomic.Bool
	cfgs := threeConfigs(t)
	for i := range cfgs {
		cfgs[i].beforeLog = func() error {
			if full[i].Load() {
				return &os.PathError{Op: "write", Path: "raft.db", Err: syscall.ENOSPC}
			}
			return nil
		}
	}
	nodes := startAll(t, cfgs)
	first := leaderOf(t, nodes)
	c := newClient(t, time.Minute, nodes...)
	registerServers(t, c, 1)
	full[first].Store(true)
	if err := c.Register(t.Context(), serverInfo(1, 1)); err != nil {
		t.Errorf("no other node took over: %v", err)
	}
	old := nodes[first]
	if second := leaderOf(t, append(append([]*Node{}, nodes[:first]...), nodes[first+1:]...)); second < 0 {
		t.Error("no other leader")
	}
	if v := metric(t, old, "dmps_meta_disk_full"); v != "1" {
		t.Errorf("dmps_meta_disk_full is %s", v)
	}
	// It must not take heartbeats for itself: the new leader would miss them.
	if _, _, err := old.leading(t.Context()); !errors.Is(err, errNoQuorum) {
		t.Errorf("it still leads: %v", err)
	}
	if r, err := c.Heartbeat(t.Context(), server.Heartbeat{ID: "s1", Incarnation: serverInfo(1, 1).Incarnation, MemoryTotal: gib}); err != nil || r.Unknown {
		t.Errorf("heartbeat: %+v, %v", r, err)
	}
	full[first].Store(false)
	eventually(t, "the old leader follows", func() bool {
		return old.ready() && metric(t, old, "dmps_meta_disk_full") == "0" && old.peer().raft.State().String() == "Follower"
	})
	if err := c.Register(t.Context(), serverInfo(2, 1)); err != nil {
		t.Error(err)
	}
	sameStates(t, nodes, 3)
}

// A node alone, whose disk is full for longer than the grace: nothing is
// decided and nothing is forgotten, and nobody is blamed for a silence that was
// its own.
func TestOneNodeWithAFullLog(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	cfg := testConfig(t, "meta1")
	cfg.SuspectAfter, cfg.Grace = time.Second, 6*time.Second
	cfg.beforeLog = func() error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return nil
	}
	n := start(t, cfg)
	waitReady(t, n)
	c, patient := newClient(t, 200*time.Millisecond, n), newClient(t, time.Minute, n)
	registerServers(t, patient, 1)
	beat := server.Heartbeat{ID: "s0", Incarnation: serverInfo(0, 1).Incarnation, MemoryTotal: gib}
	stopBeats, beaten := make(chan struct{}), make(chan struct{})
	defer func() { close(stopBeats); <-beaten }()
	go func() {
		defer close(beaten)
		for {
			select {
			case <-stopBeats:
				return
			case <-time.After(100 * time.Millisecond):
				_, _ = patient.Heartbeat(t.Context(), beat) // it waits while the disk is full
			}
		}
	}()
	full.Store(true)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 1 << 20, Redundancy: raid.Geometry{K: 1}}); !errors.Is(err, client.ErrNoQuorum) {
		t.Errorf("a decision without a disk: %v", err)
	}
	eventually(t, "the node is silent", func() bool { return n.peer().silent.Load() })
	time.Sleep(cfg.Grace + time.Second)
	full.Store(false)
	eventually(t, "it decides again", func() bool {
		_, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "w", Size: 1 << 20, Redundancy: raid.Geometry{K: 1}})
		return err == nil || errors.Is(err, metaclient.ErrExists)
	})
	page, err := patient.Events(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Events {
		if e.Kind == state.EventServerDown {
			t.Errorf("blamed for the silence of the node: %+v", e)
		}
	}
}

// A node ends in order while its disk is full, whatever Raft wanted to write,
// and starts again from what is there.
func TestClosingWithAFullDisk(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"log", "vote"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var full [3]atomic.Bool
			cfgs := threeConfigs(t)
			for i := range cfgs {
				cfgs[i].beforeLog = func() error {
					if full[i].Load() {
						return syscall.ENOSPC
					}
					return nil
				}
			}
			nodes := startAll(t, cfgs)
			c := newClient(t, time.Minute, nodes...)
			registerServers(t, c, 2)
			at := leaderOf(t, nodes)
			if what == "vote" { // a follower that loses its leader asks for votes, with a new term
				stop(t, nodes[at])
				at = (at + 1) % 3
			}
			full[at].Store(true)
			if what == "log" {
				short := newClient(t, 100*time.Millisecond, nodes[at])
				if err := short.Register(t.Context(), serverInfo(5, 1)); err == nil {
					t.Error("registered without a disk")
				}
			}
			eventually(t, "it waits for room", func() bool { return nodes[at].peer().log.full() != nil })
			begun := time.Now()
			stop(t, nodes[at])
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("it took %v to end", took)
			}
			full[at].Store(false)
			nodes[at] = start(t, nodes[at].cfg)
			if err := c.Register(t.Context(), serverInfo(6, 1)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFullFileSystem fills the file system of a leader, log, votes, state and
// all. Nothing may be corrupt afterwards.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	for i := range cfgs {
		mountSmall(t, cfgs[i].Dir)
	}
	nodes := startAll(t, cfgs)
	c := newClient(t, time.Minute, nodes...)
	first := leaderOf(t, nodes)
	ballast := filepath.Join(cfgs[first].Dir, "ballast")
	fillUp(t, ballast)
	servers := 0
	more := func() {
		t.Helper()
		info := serverInfo(servers, 1)
		info.Labels = map[string]string{"rack": strings.Repeat("r", 64)}
		for i := range 15 { // some 2,000 bytes
			info.Labels[fmt.Sprintf("l%0*d", 63, i)] = strings.Repeat("r", 64)
		}
		if err := c.Register(t.Context(), info); err != nil {
			t.Fatalf("server %d: %v", servers, err)
		}
		servers++
	}
	old := nodes[first]
	for old.diskFull(old.peer()) == nil {
		if servers == 2000 {
			t.Fatal("megabytes were written to a full disk")
		}
		more()
	}
	t.Logf("the disk of %s is full after %d commands: %v", old.cfg.Name, servers, old.diskFull(old.peer()))
	more()
	eventually(t, "another node leads", func() bool { return !old.peer().leads() })
	for range 50 {
		more()
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old leader is back", func() bool { return old.diskFull(old.peer()) == nil && old.ready() })
	more()
	sameStates(t, nodes, servers)

	// And what is on the disk is what was in memory.
	stop(t, old)
	again := start(t, old.cfg)
	waitReady(t, again)
	nodes[first] = again
	more()
	sameStates(t, nodes, servers)
}

// mountSmall puts a file system of some MiB there, until the test ends.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("a file system of its own cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// fillUp leaves no room beside a new file.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, raid.PageSize)
	for {
		if _, err := f.Write(page); err != nil {
			if !store.IsFull(err) {
				t.Fatal(fmt.Errorf("filling the disk: %w", err))
			}
			return
		}
	}
}
