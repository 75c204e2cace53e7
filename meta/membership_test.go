package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// A node that nobody reaches at one of the addresses that it gives is not let in,
// and the cluster decides on. One that can be reached gets its vote later, once it
// has what was decided.
func TestJoinOfUnreachable(t *testing.T) {
	t.Parallel()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 3)
	cfg := testConfig(t, "meta2")
	cfg.Join = []string{n.APIURL()}
	for name, wrong := range map[string]func(*Config){
		"raft": func(c *Config) { c.RaftAdvertise = "127.0.0.1:1" },
		"api":  func(c *Config) { c.APIAdvertise = "127.0.0.1:1" },
		"own":  func(c *Config) { c.RaftAdvertise = n.RaftAddr() }, // somebody else answers there
	} {
		bad := cfg
		bad.Dir = t.TempDir()
		wrong(&bad)
		stray := start(t, bad)
		eventually(t, name+": it tries", func() bool { return stray.identity().Cluster != "" && stray.peer() != nil })
		_, err := stray.joinAt(n.APIURL()).Join(t.Context(), connect.NewRequest(&metapb.JoinRequest{Node: stray.selfMessage()}))
		if reasonCode(err) != metapb.Reason_CODE_INVALID || !strings.Contains(err.Error(), "check --") {
			t.Errorf("%s: join of a node that cannot be reached: %v", name, err)
		}
		if members, err := c.Members(t.Context()); err != nil || len(members) != 1 {
			t.Errorf("%s: members %+v, %v", name, members, err)
		}
		stop(t, stray)
	}
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "w", Size: 16 << 20, Redundancy: raid.Geometry{K: 1}}); err != nil {
		t.Fatalf("after the joins of nodes that cannot be reached: %v", err)
	}

	second := start(t, cfg)
	waitReady(t, second)
	eventually(t, "it votes", func() (voted bool) {
		members, err := c.Members(t.Context())
		if err != nil || len(members) != 2 {
			t.Fatalf("members %+v, %v", members, err)
		}
		for _, m := range members {
			if m.Name == "meta2" {
				voted = m.Voter
			}
		}
		return voted
	})
	if second.disks.state.Applied() == 0 {
		t.Error("it votes and holds nothing")
	}
}

// A node that was let in and died before it got its vote takes no majority away.
func TestNonvoterCountsForNothing(t *testing.T) {
	t.Parallel()
	first := testConfig(t, "meta1")
	first.promoteAfter = time.Hour
	n := start(t, first)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	cfg := testConfig(t, "meta2")
	cfg.Join = []string{n.APIURL()}
	second := start(t, cfg)
	waitReady(t, second)
	if members, err := c.Members(t.Context()); err != nil || len(members) != 2 {
		t.Fatalf("members %+v, %v", members, err)
	}
	stop(t, second)
	if err := c.Register(t.Context(), serverInfo(1, 1)); err != nil {
		t.Fatalf("with a dead node that had no vote: %v", err)
	}
	if err := c.Leave(t.Context(), "meta2"); err != nil {
		t.Errorf("leave of a dead node without a vote: %v", err)
	}
	if err := c.Leave(t.Context(), "meta1"); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("leave of the last voter: %v", err)
	}
}

// With one of three nodes dead, a living one cannot leave; the dead one can, and
// then a living one too.
func TestLeaveOfLiving(t *testing.T) {
	t.Parallel()
	nodes := startAll(t, threeConfigs(t))
	c := newClient(t, time.Minute, nodes...)
	lead := leaderOf(t, nodes)
	dead, living := (lead+1)%3, (lead+2)%3
	stop(t, nodes[dead])
	err := c.Leave(t.Context(), nodes[living].cfg.Name)
	if !errors.Is(err, metaclient.ErrNoMajority) || !strings.Contains(err.Error(), nodes[dead].cfg.Name) {
		t.Errorf("leave of a living node beside a dead one: %v", err)
	}
	if err := c.Register(t.Context(), serverInfo(1, 1)); err != nil {
		t.Fatalf("after the refusal: %v", err)
	}
	if err := c.Leave(t.Context(), nodes[dead].cfg.Name); err != nil {
		t.Errorf("leave of the dead node: %v", err)
	}
	if err := c.Leave(t.Context(), nodes[living].cfg.Name); err != nil {
		t.Errorf("leave of a living node beside a living one: %v", err)
	}
	if err := c.Register(t.Context(), serverInfo(2, 1)); err != nil {
		t.Errorf("alone: %v", err)
	}
}

// copyNode copies the folder of a node that is stopped.
func copyNode(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A copy of a living node's folder does not take its place: it ends, and says
// where the other runs. A node that really moved is taken note of.
func TestCopyOfLivingNode(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	nodes := startAll(t, cfgs)
	c := newClient(t, time.Minute, nodes...)
	at := (leaderOf(t, nodes) + 1) % 3
	eventually(t, "it is known where all are", func() (known bool) {
		err := nodes[at].disks.state.View(func(s *state.State) { known = len(s.Nodes) == 3 })
		return err == nil && known
	})
	stop(t, nodes[at])
	twin := cfgs[at]
	twin.Dir = copyNode(t, cfgs[at].Dir)
	twin.APIListen, twin.RaftListen = "127.0.0.1:0", "127.0.0.1:0"
	nodes[at] = start(t, cfgs[at])
	waitReady(t, nodes...)
	before, err := c.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Start(t.Context(), twin); err == nil || !strings.Contains(err.Error(), nodes[at].APIURL()) {
		t.Errorf("a copy of a living node starts: %v", err)
		if err == nil {
			stop(t, n)
		}
	}
	// Nor does the leader take its word for it.
	self := nodes[at].selfMessage()
	self.ApiUrl, self.RaftAddr, self.Process = "http://127.0.0.1:1", "127.0.0.1:1", "another"
	_, err = nodes[at].joinAt(nodes[at].APIURL()).Join(t.Context(), connect.NewRequest(&metapb.JoinRequest{Node: self, Known: true}))
	if reasonCode(err) != metapb.Reason_CODE_ID_IN_USE || !strings.Contains(err.Error(), nodes[at].RaftAddr()) {
		t.Errorf("a copy says that it moved: %v", err)
	}
	after, err := c.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if before[i].APIURL != after[i].APIURL || before[i].RaftAddr != after[i].RaftAddr {
			t.Errorf("%+v became %+v", before[i], after[i])
		}
	}
	stop(t, nodes[at])
	moved := cfgs[at]
	moved.APIListen, moved.RaftListen = "127.0.0.1:0", "127.0.0.1:0"
	nodes[at] = start(t, moved)
	eventually(t, "it is known where the node is now", func() bool {
		members, err := c.Members(t.Context())
		for _, m := range members {
			if m.Name == moved.Name && m.RaftAddr == nodes[at].RaftAddr() && m.APIURL == nodes[at].APIURL() && m.Voter {
				return true
			}
		}
		_ = err // asked again
		return false
	})
}

// Of a node that lacks nothing only the others are taken away: leases stay.
func TestRecoverMembershipOnly(t *testing.T) {
	t.Parallel()
	nodes := startAll(t, threeConfigs(t))
	c := newClient(t, time.Minute, nodes...)
	before := populate(t, c)
	lead := nodes[leaderOf(t, nodes)]
	for _, n := range nodes {
		stop(t, n)
	}
	cfg := lead.cfg
	if err := RecoverSurvivor(t.Context(), RestoreConfig{Dir: cfg.Dir, RaftAdvertise: cfg.RaftListen, MembershipOnly: true}); err != nil {
		t.Fatal(err)
	}
	cfg.Join, cfg.BootstrapExpect = nil, 0
	n := start(t, cfg)
	waitReady(t, n)
	c = newClient(t, time.Minute, n)
	if _, err := c.Renew(t.Context(), before.Volume, before.Epoch, client.Report{State: client.StateHealthy}); err != nil {
		t.Errorf("the lease from before: %v", err)
	}
	if _, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "b"}); !errors.Is(err, client.ErrInUse) {
		t.Errorf("another holder: %v", err)
	}
	if members, err := c.Members(t.Context()); err != nil || len(members) != 1 {
		t.Errorf("members %+v, %v", members, err)
	}
	beats(t, c, 6, before)
	_, l, err := c.Volume(t.Context(), "v")
	if err != nil || l.Version != before.Version {
		t.Errorf("layout %d became %d, %v", before.Version, l.Version, err)
	}
	for _, g := range l.Groups {
		for _, m := range g.Members {
			if m.State != raid.MemberInSync {
				t.Errorf("member %+v", m)
			}
		}
	}
}

// Once an attempt may have been carried out, no later answer says that nothing
// was changed.
func TestUnknownStaysUnknown(t *testing.T) {
	t.Parallel()
	nodes := startAll(t, threeConfigs(t))
	lead := nodes[leaderOf(t, nodes)]
	c := newClient(t, 8*time.Second, lead)
	for _, n := range nodes {
		if n != lead {
			n.peer().layer.mute(true)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.AcceptLoss(ctx, "v") // the leader takes it, cannot commit, and loses its office
	if !errors.Is(err, metaclient.ErrUnknownOutcome) || !errors.Is(err, client.ErrNoQuorum) || strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("a call that may have been carried out: %v", err)
	}
}

// A node gets its vote when it has answered for long enough since it last did not, and
// when it holds what the leader held a round ago.
func TestVoteIsEarned(t *testing.T) {
	now := time.Now()
	p := probation{}
	for i, c := range []struct {
		answers bool
		at      time.Duration
		want    bool
	}{{true, 0, false}, {true, time.Second, false}, {false, 2 * time.Second, false}, {true, 3 * time.Second, false}, {true, 4 * time.Second, false}, {true, 5 * time.Second, true}} {
		if got := p.passed("n", c.answers, now.Add(c.at), 2*time.Second); got != c.want {
			t.Errorf("round %d: %v", i, got)
		}
	}

	first := testConfig(t, "meta1")
	first.promoteAfter = time.Hour
	n := start(t, first)
	waitReady(t, n)
	cfg := testConfig(t, "meta2")
	cfg.Join = []string{n.APIURL()}
	second := start(t, cfg)
	waitReady(t, second)
	servers, err := n.configuration(t.Context(), n.peer())
	if err != nil || len(servers) != 2 {
		t.Fatalf("%v, %v", servers, err)
	}
	held := second.disks.state.Applied()
	eventually(t, "it holds everything", func() bool { return n.caughtUp(t.Context(), n.peer(), servers[1], held) })
	if n.caughtUp(t.Context(), n.peer(), servers[1], held+1000) {
		t.Error("a node that lacks decisions has caught up")
	}
}

// Of two changes that were checked against one configuration only one is made.
func TestChangesOfOneConfiguration(t *testing.T) {
	t.Parallel()
	nodes := startAll(t, threeConfigs(t))
	at := leaderOf(t, nodes)
	lead, one, other := nodes[at], nodes[(at+1)%3], nodes[(at+2)%3]
	servers, err := lead.configuration(t.Context(), lead.peer())
	if err != nil {
		t.Fatal(err)
	}
	leaves := func(n *Node) error {
		v := servers[slices.IndexFunc(servers, func(v raft.Server) bool { return string(v.ID) == n.ID() })]
		return lead.dismiss(t.Context(), lead.peer(), servers, v)
	}
	if err := leaves(one); err != nil {
		t.Fatal(err)
	}
	if err := leaves(other); err == nil {
		t.Error("a change that was checked against a configuration of before is made")
	}
	if now, err := lead.configuration(t.Context(), lead.peer()); err != nil || len(now) != 2 {
		t.Errorf("members %v, %v", now, err)
	}
}

// A node does not become the whole cluster while others of it live. Once they are gone
// it does, above every generation that it ever heard of.
func TestRecoverBesideTheLiving(t *testing.T) {
	t.Parallel()
	nodes := startAll(t, threeConfigs(t))
	eventually(t, "it is known where all are", func() (known bool) {
		err := nodes[0].disks.state.View(func(s *state.State) { known = len(s.Nodes) == 3 })
		return err == nil && known
	})
	stop(t, nodes[0])
	again := RestoreConfig{Dir: nodes[0].cfg.Dir, RaftAdvertise: nodes[0].cfg.RaftListen}
	if err := RecoverSurvivor(t.Context(), again); !errors.Is(err, ErrLives) {
		t.Errorf("beside living nodes: %v", err)
	}
	stop(t, nodes[1])
	stop(t, nodes[2])
	id, err := loadIdentity(again.Dir, nodes[0].cfg.Name)
	if err != nil {
		t.Fatal(err)
	}
	id.Superseded = uint64(time.Now().Add(time.Hour).UnixMilli())
	if err := id.save(again.Dir); err != nil {
		t.Fatal(err)
	}
	if err := RecoverSurvivor(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if now, err := loadIdentity(again.Dir, id.Name); err != nil || now.Generation <= id.Superseded || now.Superseded != 0 {
		t.Errorf("it had heard of generation %d: %+v, %v", id.Superseded, now, err)
	}
}

// A server that says to be at an address which leads nobody to it is not up.
func TestRegisterNowhere(t *testing.T) {
	t.Parallel()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Second, n)
	for _, addr := range []string{"tcp://[::]:7301", "tcp://0.0.0.0:7301", "tcp://127.0.0.1:7301,tcp://:7301", "fabric+tcp://[::]:7301"} {
		info := serverInfo(0, 1)
		info.Addr = addr
		if err := c.Register(t.Context(), info); !errors.Is(err, metaclient.ErrInvalid) {
			t.Errorf("at %s: %v", addr, err)
		}
	}
}

// Records of nodes that never became members, or are none any more, are forgotten: they do
// not count against the most nodes that there can be. Members keep theirs.
func TestStrayNodesAreForgotten(t *testing.T) {
	t.Parallel()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	stray := n.self()
	for i := range 14 {
		stray.Name = fmt.Sprint("lost", i)
		stray.ID = stray.Name + n.ID()[len("meta1"):]
		if _, err := n.propose(t.Context(), &state.Command{PutNode: &stray}); err != nil {
			var full *state.Refusal
			if !errors.As(err, &full) || !strings.Contains(full.Message, "at most") {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "only the member has a record", func() bool {
		var nodes map[string]*state.Node
		if err := n.disks.state.View(func(s *state.State) { nodes = maps.Clone(s.Nodes) }); err != nil {
			t.Fatal(err)
		}
		return len(nodes) == 1 && nodes[n.ID()] != nil
	})
	cfg := testConfig(t, "meta2")
	cfg.Join = []string{n.APIURL()}
	second := start(t, cfg)
	waitReady(t, second)
	var record *state.Node
	if err := n.disks.state.View(func(s *state.State) { record = s.Nodes[second.ID()] }); err != nil || record == nil {
		t.Errorf("a node that joined has no record: %v", err)
	}
}
