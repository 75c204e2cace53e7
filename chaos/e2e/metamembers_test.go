package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
