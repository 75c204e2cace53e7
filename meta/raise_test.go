package meta

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"dmps/meta/level"
	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/state"
)

// Two versions of the program.
var (
	oldBuild  = level.Build{Version: "old", Lowest: level.Lowest, Highest: level.Highest}
	nextBuild = level.Build{Version: "next", Lowest: level.Lowest, Highest: level.Highest + 1}
)

func levelIs(t *testing.T, c *metaclient.Client, want level.Level) {
	t.Helper()
	if st, err := c.Status(t.Context()); err != nil || st.Level != uint32(want) {
		t.Errorf("level %+v, want %d, %v", st, want, err)
	}
}

// tooOld demands the message that says what to install.
func tooOld(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "install dmps next") {
		t.Errorf("%s: %v", what, err)
	}
}

func versionsAre(t *testing.T, c *metaclient.Client, want string) {
	t.Helper()
	eventually(t, "versions "+want, func() bool {
		members, err := c.Members(t.Context())
		slices.SortFunc(members, func(a, b metaclient.Node) int { return cmp.Compare(a.Name, b.Name) })
		versions := ""
		for _, m := range members {
			versions += m.Build.Version + " "
		}
		return err == nil && versions == want
	})
}

// A cluster begins with what all of its nodes know, stays there while they are
// upgraded, and is raised when all of them know more. Afterwards an older one does not
// begin and does not join.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	cfgs[0].build, cfgs[1].build, cfgs[2].build = nextBuild, nextBuild, oldBuild
	nodes := startAll(t, cfgs)
	c := newClient(t, time.Minute, nodes...)
	levelIs(t, c, level.Highest)
	versionsAre(t, c, "next next old ")
	_, _, err := c.RaiseLevel(t.Context(), 0)
	if !errors.Is(err, metaclient.ErrLevel) || !strings.Contains(err.Error(), "meta3: dmps old knows level 1") || strings.Contains(err.Error(), "meta1") {
		t.Errorf("raise beside an older node: %v", err)
	}
	stop(t, nodes[2])
	_, _, err = c.RaiseLevel(t.Context(), 0)
	if !errors.Is(err, metaclient.ErrLevel) || !strings.Contains(err.Error(), "meta3 does not answer") {
		t.Errorf("raise while a node is away: %v", err)
	}
	levelIs(t, c, level.Highest)

	cfgs[2].build = nextBuild
	cfgs[2].Join, cfgs[2].BootstrapExpect = nil, 0 // it says so all the same
	nodes[2] = start(t, cfgs[2])
	waitReady(t, nodes...)
	if was, is, err := c.RaiseLevel(t.Context(), 0); err != nil || was != uint32(level.Highest) || is != uint32(nextBuild.Highest) {
		t.Fatalf("raise: %d %d %v", was, is, err)
	}
	if was, is, err := c.RaiseLevel(t.Context(), 0); err != nil || was != is {
		t.Errorf("raise again: %d %d %v", was, is, err)
	}
	if _, _, err := c.RaiseLevel(t.Context(), uint32(level.Highest)); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("lowered: %v", err)
	}
	registerServers(t, c, 1)
	eventually(t, "all nodes have heard of it", func() bool {
		for _, n := range nodes {
			if n.disks.state.Level() != nextBuild.Highest {
				return false
			}
		}
		return true
	})

	stop(t, nodes[2])
	cfgs[2].build = oldBuild
	_, err = Start(t.Context(), cfgs[2])
	tooOld(t, "start of an older node", err)

	stray := testConfig(t, "meta4")
	stray.build, stray.Join = oldBuild, []string{nodes[0].APIURL()}
	n4 := start(t, stray)
	eventually(t, "an older node that joins ends", func() bool { return n4.Err() != nil })
	tooOld(t, "join of an older node", n4.Err())
	if members, err := c.Members(t.Context()); err != nil || len(members) != 3 {
		t.Errorf("members %+v, %v", members, err)
	}
	_, err = nodes[0].joinAt(nodes[0].APIURL()).Join(t.Context(), connect.NewRequest(&metapb.JoinRequest{Node: n4.selfMessage()}))
	if reasonCode(err) != metapb.Reason_CODE_LEVEL {
		t.Errorf("join of a node that did not ask before: %v", err)
	}
	tooOld(t, "such a join", err)

	cfgs[2].build = nextBuild
	nodes[2] = start(t, cfgs[2])
	waitReady(t, nodes...)
	var backup bytes.Buffer
	if _, err := c.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	_, err = CheckBackup(bytes.NewReader(backup.Bytes()))
	tooOld(t, "check of a backup", err)
	dir := filepath.Join(t.TempDir(), "restored")
	tooOld(t, "restore of a backup", Restore(t.Context(), &backup, RestoreConfig{Dir: dir, beside: true}))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a restore that was refused leaves %v, %v", left, err)
	}
}

// A node does not begin either while what it does not know is in its log and was not
// carried out, or is a snapshot that came and did not take effect.
func TestTooOldForItsLog(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	cfg.build = oldBuild
	n := start(t, cfg)
	waitReady(t, n)
	stop(t, n)
	d, err := openDisks(cfg.Dir, oldBuild, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	last, err := d.log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	self := n.self()
	self.Build = nextBuild
	for i, c := range []*state.Command{{PutNode: &self}, {Raise: &state.Raise{To: nextBuild.Highest, By: "next"}}} {
		data, err := c.Encode(level.Highest)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.log.StoreLog(&raft.Log{Index: last + 1 + uint64(i), Term: 9, Type: raft.LogCommand, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = Start(t.Context(), cfg)
		tooOld(t, "start with such a log", err)
	}
	tooOld(t, "recovery of such a log", RecoverSurvivor(t.Context(), RestoreConfig{Dir: cfg.Dir, beside: true}))
	cfg.build = nextBuild
	n = start(t, cfg)
	waitReady(t, n)
	levelIs(t, newClient(t, time.Minute, n), nextBuild.Highest)
	if err := n.peer().raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	stop(t, n)
	if err := os.Remove(filepath.Join(cfg.Dir, "state.db")); err != nil {
		t.Fatal(err)
	}
	cfg.build = oldBuild
	_, err = Start(t.Context(), cfg)
	tooOld(t, "start with such a snapshot", err)
}

// A follower that is too old, whatever the leader believed, ends when it meets what it
// does not know: it skips nothing.
func TestTooOldFollowerEnds(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	cfgs[0].build, cfgs[1].build, cfgs[2].build = nextBuild, nextBuild, oldBuild
	nodes := startAll(t, cfgs)
	c := newClient(t, time.Minute, nodes[:2]...)
	versionsAre(t, c, "next next old ")
	if leaderOf(t, nodes) == 2 {
		if err := nodes[2].peer().raft.LeadershipTransfer().Error(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a newer one leads", func() bool { return leaderOf(t, nodes) != 2 })
	}
	lead := nodes[leaderOf(t, nodes)]
	lie := nodes[2].self()
	lie.Build = nextBuild
	for _, cmd := range []*state.Command{{PutNode: &lie}, {Raise: &state.Raise{To: nextBuild.Highest, By: "next"}}} {
		if _, err := lead.propose(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it ends", func() bool { return nodes[2].Err() != nil })
	tooOld(t, "a follower", nodes[2].Err())
	registerServers(t, c, 1)
	levelIs(t, c, nextBuild.Highest)
}
