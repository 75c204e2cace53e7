package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// strayMeta runs a metadata node beside the cluster's, until the end of the test.
func (c *cluster) strayMeta(name string, argv ...string) *rig.Process {
	c.t.Helper()
	p, err := rig.Start(rig.Spec{Name: name, Log: filepath.Join(c.Config.Dir, name+".out"),
		Argv: append([]string{dmpsBin, "meta", "--api", "127.0.0.1:0", "--raft", "127.0.0.1:0", "--join", c.MetaURLs()}, argv...)})
	must(c.t, err)
	c.t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			c.t.Error(err)
		}
	})
	return p
}

// said waits until a process has written something.
func (c *cluster) said(p *rig.Process, what string) {
	c.t.Helper()
	must(c.t, p.WaitFor(testCtx(c.t), func() error {
		if !strings.Contains(rig.Tail(p.Log, 50), what) {
			return os.ErrNotExist
		}
		return nil
	}))
}

// TestMembershipMistakes makes those mistakes with metadata nodes that ended
// clusters: a node that cannot be reached joins, a living one leaves instead of a
// dead one, a copy of a living one is started. Then the cluster does lose its majority,
// and goes on with the leader's disk, its client under the lease that it had.
func TestMembershipMistakes(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()

	p := c.strayMeta("meta4", "--id", "meta4", "--dir", filepath.Join(c.Config.Dir, "meta4"), "--raft-advertise", "127.0.0.1:1")
	c.said(p, "--raft-advertise and the network")
	must(t, p.Stop())
	c.voters(3)

	lead := c.leader()
	others := slices.DeleteFunc(c.allMeta(), func(m *rig.Role) bool { return m.ID == lead.ID })
	dead, living := others[0], others[1]
	must(t, c.Kill(*dead))
	refused(t, c.dmps("meta", "leave", living.ID, "--yes"), "nothing was changed")
	c.works("volume", "create", "beside", "--size", "1MiB", "--redundancy", "none")

	twin := filepath.Join(c.Config.Dir, "twin")
	must(t, os.CopyFS(twin, os.DirFS(flagOf(t, *dead, "--dir"))))
	c.startMeta(dead)
	before := c.voters(3)
	p = c.strayMeta("twin", "--id", dead.ID, "--dir", twin)
	<-p.Done()
	if end := rig.Tail(p.Log, 50); !strings.Contains(end, "still runs at") || !strings.Contains(end, flagOf(t, *dead, "--api")) {
		t.Errorf("a copy of a living node ended with: %s", end)
	}
	if after := c.voters(3); after[dead.ID] != before[dead.ID] {
		t.Errorf("nodes %v became %v", before, after)
	}
	ld.more(1000)

	lead = c.leader()
	c.killMeta(false, c.Meta...)
	ld.more(1000)
	c.works("meta", "recover", "--dir", flagOf(t, lead, "--dir"), "--raft", flagOf(t, lead, "--raft"), "--membership-only", "--yes")
	c.startMeta(role(t, c.Meta, lead.ID))
	c.voters(1)
	c.awaitStatus(healthy, noticeLimit)
	ld.more(1000)
	ld.flawless()
}

// TestRestoreAfterMoves restores a backup that is older than where members are. It is
// refused while the cluster lives. Afterwards servers keep what the restored metadata
// does not know, until somebody says that nobody needs it.
func TestRestoreAfterMoves(t *testing.T) {
	c := start(t, small, func(c *rig.DevConfig) { c.Redundancy = "mirror:2" })
	ld := c.startLoad()
	file := filepath.Join(c.Config.Dir, "backup")
	c.works("meta", "backup", file)
	c.works("server", "drain", "server1", "--wait")
	dir := filepath.Join(c.Config.Dir, "restored")
	restore := []string{"meta", "restore", file, "--dir", dir, "--id", "meta1", "--raft", flagOf(t, c.Meta[0], "--raft"), "--yes"}
	refused(t, c.dmps(restore...), "metadata nodes of this cluster live")
	dry := c.works("meta", "restore", file, "--dir", dir, "--dry-run").stdout
	for _, w := range []string{"it would be refused", "volume swap0", ": no data would be lost"} {
		if !strings.Contains(dry, w) {
			t.Errorf("a dry run does not say %q: %s", w, dry)
		}
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var said struct {
			Prospect []struct{ Members, Held, Gone, Unanswered int }
		}
		must(t, json.Unmarshal([]byte(c.works("meta", "restore", file, "--dir", dir, "--dry-run", "--output", "json").stdout), &said))
		if len(said.Prospect) != 1 || said.Prospect[0].Unanswered != 0 || said.Prospect[0].Held+said.Prospect[0].Gone != said.Prospect[0].Members {
			t.Fatalf("a dry run finds %+v", said)
		}
		if said.Prospect[0].Gone > 0 { // server1 has given back what was moved off it
			break
		}
		if time.Since(begin) > commandLimit {
			t.Fatalf("a dry run misses what was moved: %+v", said)
		}
	}
	old := flagOf(t, c.Meta[0], "--dir")
	c.killMeta(false, c.Meta...)
	c.works(restore...)
	must(t, os.Rename(old, old+".old"))
	must(t, os.Rename(dir, old))
	c.startMeta(&c.Meta[0])
	c.awaitEnd(c.Client)
	if r := ld.Stop(); len(r.Violations) > 0 {
		t.Errorf("wrong data before the end: %v", r.Err())
	}
	conn := c.reconnect()
	ld.check(conn)
	unknown := func() (n uint64, at string) {
		t.Helper()
		var servers []struct {
			ID            string
			UnknownChunks uint64 `json:"unknown_chunks"`
		}
		must(t, json.Unmarshal([]byte(c.works("server", "list", "--output", "json").stdout), &servers))
		for _, s := range servers {
			if s.UnknownChunks > 0 {
				n, at = n+s.UnknownChunks, s.ID
			}
		}
		return n, at
	}
	n, at := unknown()
	if n == 0 {
		t.Fatal("what was moved after the backup is not shown, or was given back")
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) { // with its next heartbeat the server says what it is
		list := c.works("server", "unknown", at).stdout
		if strings.Contains(list, "swap0") && !strings.Contains(list, "not said yet") {
			break
		}
		if time.Since(begin) > commandLimit {
			t.Fatalf("of what volume unknown chunks are is not said: %s", list)
		}
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		n, at := unknown()
		if n == 0 {
			break
		}
		c.works("server", "purge", at, "--yes")
		if time.Since(begin) > commandLimit {
			t.Fatalf("%d unknown chunks are still there", n)
		}
	}
	c.awaitStatus(healthy, rebuildLimit)
	ld.check(conn)

	// The node of before ends when it hears of the new generation.
	p := c.strayMeta("before", "--id", "meta1", "--dir", old+".old")
	<-p.Done()
	if end := rig.Tail(p.Log, 50); !strings.Contains(end, "generation") {
		t.Errorf("a node of before the restore ended with: %s", end)
	}
}
