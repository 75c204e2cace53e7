package meta

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/state"
	"dmps/raid"
	"dmps/server"
)

// beats has all servers report, each with the chunks of the layout that are on
// it, but not those left out.
func beats(t *testing.T, c *metaclient.Client, n int, l *raid.Layout, without ...raid.ChunkID) {
	t.Helper()
	left := map[raid.ChunkID]bool{}
	for _, id := range without {
		left[id] = true
	}
	for i := range n {
		info := serverInfo(i, 1)
		hb := server.Heartbeat{ID: info.ID, Incarnation: info.Incarnation, MemoryTotal: info.MemoryTotal}
		for _, g := range l.Groups {
			for _, m := range g.Members {
				if m.Server == info.ID && !left[m.Chunk] {
					hb.Chunks = append(hb.Chunks, m.Chunk)
				}
			}
		}
		if r, err := c.Heartbeat(t.Context(), hb); err != nil || r.Unknown {
			t.Fatalf("heartbeat of %s: %+v, %v", info.ID, r, err)
		}
	}
}

// afterwards checks a cluster that began again from something older.
func afterwards(t *testing.T, c *metaclient.Client, n int, before *raid.Layout) {
	t.Helper()
	ctx := t.Context()
	if _, err := c.Renew(ctx, before.Volume, before.Epoch, client.Report{State: client.StateHealthy}); !errors.Is(err, client.ErrFenced) {
		t.Errorf("a lease from before: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	if _, _, err := c.Attach(short, client.AttachRequest{Volume: "v", Holder: "b"}); err == nil {
		t.Error("attached before the servers said what they hold")
	}
	cancel()
	gone := before.Groups[0].Members[2]
	beats(t, c, n, before, gone.Chunk)
	l, _, err := c.Attach(ctx, client.AttachRequest{Volume: "v", Holder: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if l.Epoch <= before.Epoch+1000 || l.FirstEpoch || l.Version <= before.Version {
		t.Errorf("epoch %d, first %v, version %d after epoch %d, version %d", l.Epoch, l.FirstEpoch, l.Version, before.Epoch, before.Version)
	}
	for g, group := range l.Groups {
		for col, m := range group.Members {
			was := before.Groups[g].Members[col]
			if is := m.State == raid.MemberInSync && m.Chunk == was.Chunk; is == (was.Chunk == gone.Chunk) {
				t.Fatalf("group %d member %d: %+v, before: %+v; what no server holds is chunk %d", g, col, m, was, gone.Chunk)
			}
		}
	}
	eventually(t, "the member that no server holds is replaced", func() bool {
		_, l, err := c.Volume(ctx, "v")
		return err == nil && l.Groups[0].Members[2].State == raid.MemberRebuilding
	})
	if _, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "w", Size: 1 << 20, Redundancy: raid.Geometry{K: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, w, err := c.Volume(ctx, "w"); err != nil || w.Volume < before.Volume+1000 || w.Groups[0].Members[0].Chunk < 1<<32 {
		t.Errorf("ids are used again: %+v, %v", w, err)
	}
}

func populate(t *testing.T, c *metaclient.Client) *raid.Layout {
	t.Helper()
	registerServers(t, c, 6)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 16 << 20, Redundancy: raid.Geometry{K: 2, M: 2}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Renew(t.Context(), l.Volume, l.Epoch, client.Report{State: client.StateHealthy}); err != nil { // it is open
		t.Fatal(err)
	}
	return l
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	before := populate(t, c)
	var backup bytes.Buffer
	if size, err := c.Backup(t.Context(), &backup); err != nil || size != int64(backup.Len()) || size == 0 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	cluster := n.identity().Cluster
	stop(t, n)

	for what, b := range map[string][]byte{
		"cut": backup.Bytes()[:backup.Len()/2], "empty": nil,
		"changed": append([]byte{backup.Bytes()[0] ^ 1}, backup.Bytes()[1:]...),
	} {
		dir := t.TempDir()
		if err := Restore(t.Context(), bytes.NewReader(b), RestoreConfig{Dir: dir}); err == nil {
			t.Errorf("%s backup was restored", what)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s backup left %v, %v", what, left, err)
		}
	}
	if err := Restore(t.Context(), bytes.NewReader(backup.Bytes()), RestoreConfig{Dir: n.cfg.Dir}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("restored over a node: %v", err)
	}

	cfg := testConfig(t, "meta9")
	cfg.RaftListen = heldAddr(t)
	if err := Restore(t.Context(), bytes.NewReader(backup.Bytes()), RestoreConfig{Dir: cfg.Dir, Name: "meta9", RaftAdvertise: cfg.RaftListen}); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	waitReady(t, again)
	if again.identity().Cluster != cluster {
		t.Errorf("cluster %s became %s", cluster, again.identity().Cluster)
	}
	c = newClient(t, time.Minute, again)
	afterwards(t, c, 6, before)

	// A node that joins gets what was restored, not only what came after.
	second := testConfig(t, "meta2")
	second.Join = []string{again.APIURL()}
	joined := start(t, second)
	waitReady(t, joined)
	eventually(t, "the second node has the state", func() bool {
		return joined.disks.state.Applied() == again.disks.state.Applied()
	})
	if err := joined.disks.state.View(func(s *state.State) {
		if err := s.Check(); err != nil || len(s.Servers) != 6 || len(s.Volumes) != 2 {
			t.Errorf("the second node has %d servers and %d volumes: %v", len(s.Servers), len(s.Volumes), err)
		}
	}); err != nil {
		t.Error(err)
	}
}

func TestRecoverSurvivor(t *testing.T) {
	t.Parallel()
	nodes := startAll(t, threeConfigs(t))
	c := newClient(t, time.Minute, nodes...)
	before := populate(t, c)
	survivor := nodes[1]
	eventually(t, "the survivor has everything", func() bool {
		return survivor.disks.state.Applied() >= nodes[0].disks.state.Applied() && survivor.disks.state.Applied() >= nodes[2].disks.state.Applied()
	})
	for _, n := range nodes {
		stop(t, n)
	}
	if err := RecoverSurvivor(t.Context(), RestoreConfig{Dir: t.TempDir()}); err == nil {
		t.Error("an empty folder was recovered")
	}
	cfg := survivor.cfg
	for range 2 { // it may be repeated
		if err := RecoverSurvivor(t.Context(), RestoreConfig{Dir: cfg.Dir, RaftAdvertise: cfg.RaftListen}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "raft.db")); err != nil {
		t.Error(err)
	}
	cfg.Join, cfg.BootstrapExpect = nil, 0
	n := start(t, cfg)
	waitReady(t, n)
	c = newClient(t, time.Minute, n)
	afterwards(t, c, 6, before)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []metaclient.Event
	done := make(chan error, 1)
	go func() {
		done <- c.FollowEvents(ctx, 0, func(p metaclient.EventPage) error {
			got = append(got, p.Events...)
			if got[len(got)-1].Kind == state.EventVolumeDeleted {
				return errDone
			}
			return nil
		})
	}()
	populate(t, c)
	if err := c.Register(ctx, serverInfo(0, 2)); err != nil {
		t.Fatal(err)
	}
	if err := c.Rebalance(ctx, 101); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("threshold of 101 %%: %v", err)
	}
	if err := c.Rebalance(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.StopRebalance(ctx); err != nil {
		t.Fatal(err)
	}
	losses, err := c.Losses(ctx, "s1")
	if err != nil || len(losses) != 1 || losses[0].Volume != "v" || losses[0].Members == 0 {
		t.Errorf("losses: %+v, %v", losses, err)
	}
	if err := c.DeleteVolume(ctx, "v", true); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, errDone) {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the events did not come")
	}
	seen := map[string]int{}
	for i, e := range got {
		seen[e.Kind]++
		if e.Seq != uint64(i)+1 || e.Text == "" || time.Since(e.At) > time.Minute {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	for kind, n := range map[string]int{
		state.EventServerJoined: 6, state.EventVolumeCreated: 1, state.EventVolumeAttached: 1, state.EventServerRestarted: 1,
		state.EventMembersLost: 1, state.EventRebalanceStarted: 1,
	} {
		if seen[kind] != n {
			t.Errorf("%d events of kind %s, want %d", seen[kind], kind, n)
		}
	}
	start := time.Now()
	last := got[len(got)-1].Seq
	page, err := c.Events(t.Context(), last, 300*time.Millisecond)
	if err != nil || len(page.Events) != 0 || page.Last != last || time.Since(start) < 250*time.Millisecond {
		t.Errorf("nothing happened: %+v, %v after %v", page, err, time.Since(start))
	}
}

var errDone = errors.New("done")
