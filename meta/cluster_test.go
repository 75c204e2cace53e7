package meta

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/raid"
)

// threeConfigs are nodes that find each other.
func threeConfigs(t *testing.T) []Config {
	t.Helper()
	var urls []string
	cfgs := make([]Config, 3)
	for i := range cfgs {
		cfgs[i] = testConfig(t, []string{"meta1", "meta2", "meta3"}[i])
		cfgs[i].APIListen, cfgs[i].RaftListen = heldAddr(t), heldAddr(t)
		cfgs[i].BootstrapExpect = 3
		urls = append(urls, cfgs[i].APIListen)
	}
	for i := range cfgs {
		cfgs[i].Join = urls
	}
	return cfgs
}

func startAll(t *testing.T, cfgs []Config) []*Node {
	t.Helper()
	nodes := make([]*Node, len(cfgs))
	for i, cfg := range cfgs {
		nodes[i] = start(t, cfg)
	}
	waitReady(t, nodes...)
	return nodes
}

func leaderOf(t *testing.T, nodes []*Node) (leader int) {
	t.Helper()
	eventually(t, "one leader", func() bool {
		leader = -1
		for i, n := range nodes {
			if n == nil {
				continue
			}
			if _, _, err := n.leading(t.Context()); err == nil {
				leader = i
			}
		}
		return leader >= 0
	})
	return leader
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	nodes := startAll(t, cfgs)
	for _, n := range nodes {
		if n.identity().Cluster != nodes[0].identity().Cluster {
			t.Fatalf("two clusters: %+v %+v", n.identity(), nodes[0].identity())
		}
	}
	ctx := t.Context()
	c := newClient(t, time.Minute, nodes...)
	registerServers(t, c, 3)

	// Every node answers every call: those that do not lead hand it on.
	for _, n := range nodes {
		one := newClient(t, time.Minute, n)
		st, err := one.Status(ctx)
		if err != nil || len(st.Servers) != 3 || len(st.Meta) != 3 {
			t.Fatalf("status by %s: %+v, %v", n.cfg.Name, st, err)
		}
	}
	if _, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "v", Size: 64 << 20, Redundancy: raid.Geometry{K: 1, M: 1}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := c.Attach(ctx, client.AttachRequest{Volume: "v", Holder: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Renew(ctx, l.Volume, l.Epoch, client.Report{State: client.StateDegraded, DegradedGroups: 2, RedundancyLeft: 0}); err != nil {
		t.Fatal(err)
	}

	// The leader goes; what was decided and reported stays, and the same
	// client finds the next one.
	first := leaderOf(t, nodes)
	stop(t, nodes[first])
	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v := st.Volumes[0]; v.State != client.StateDegraded || v.DegradedGroups != 2 || v.Lease == nil || v.Lease.Holder != "a" || v.Lease.Remaining <= 0 {
		t.Errorf("after a change of leader: %+v", v)
	}
	if _, err := c.Renew(ctx, l.Volume, l.Epoch, client.Report{State: client.StateHealthy, RedundancyLeft: 1}); err != nil {
		t.Errorf("renew at the next leader: %v", err)
	}

	// A second one goes: no quorum is told from a refusal, and nothing is
	// decided.
	nodes[first] = nil
	second := leaderOf(t, nodes)
	stop(t, nodes[second])
	impatient, err := metaclient.New(cfgs[0].Join, metaclient.WithPatience(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	if _, _, err := impatient.Attach(ctx, client.AttachRequest{Volume: "v", Holder: "b"}); !errors.Is(err, client.ErrNoQuorum) {
		t.Errorf("without quorum: %v", err)
	}

	// Back with one of them, from disk.
	nodes[second] = start(t, cfgs[second])
	if _, _, err := c.Attach(ctx, client.AttachRequest{Volume: "v", Holder: "b"}); !errors.Is(err, client.ErrInUse) {
		t.Errorf("with quorum again: %v", err)
	}
	if st, err := c.Status(ctx); err != nil || st.State() != client.StateHealthy {
		t.Errorf("the last report: %+v, %v", st, err)
	}
}

func TestMembership(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	nodes := startAll(t, cfgs)
	ctx := t.Context()
	c := newClient(t, time.Minute, nodes...)
	registerServers(t, c, 2)

	// A node with an empty disk takes the place of its dead older self.
	gone := (leaderOf(t, nodes) + 1) % 3
	old := nodes[gone].ID()
	stop(t, nodes[gone])
	again := cfgs[gone]
	again.Dir = t.TempDir()
	nodes[gone] = start(t, again)
	waitReady(t, nodes[gone])
	members, err := c.Members(ctx)
	if err != nil || len(members) != 3 {
		t.Fatalf("members %+v, %v", members, err)
	}
	for _, m := range members {
		if m.ID == old {
			t.Errorf("the older self still votes: %+v", m)
		}
	}

	// A fourth joins; another one of its name is refused while it lives.
	fourth := testConfig(t, "meta4")
	fourth.Join = cfgs[0].Join
	n4 := start(t, fourth)
	waitReady(t, n4)
	if err := n4.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	self := n4.self()
	self.ID = "meta4-another0"
	_, err = n4.clusterAt(nodes[0].APIURL()).Join(ctx, connect.NewRequest(&metapb.JoinRequest{Node: nodeMessage(&self)}))
	if reasonCode(err) != metapb.Reason_CODE_ID_IN_USE {
		t.Errorf("second meta4: %v", err)
	}

	// It leaves again.
	if err := c.Leave(ctx, "meta4"); err != nil {
		t.Fatal(err)
	}
	if err := c.Leave(ctx, "meta4"); err != nil {
		t.Errorf("leave again: %v", err)
	}
	members, err = c.Members(ctx)
	if err != nil || len(members) != 3 {
		t.Fatalf("members %+v, %v", members, err)
	}
	// Started again it is told that it is out, and does not creep in.
	stop(t, n4)
	n4 = start(t, fourth)
	eventually(t, "the removed node ends", func() bool { return errors.Is(n4.Err(), ErrRemoved) })
}

func TestForeignCluster(t *testing.T) {
	t.Parallel()
	a, b := start(t, testConfig(t, "meta1")), start(t, testConfig(t, "meta2"))
	waitReady(t, a, b)
	self := b.self()
	_, err := b.clusterAt(a.APIURL()).Join(t.Context(), connect.NewRequest(&metapb.JoinRequest{
		Node: nodeMessage(&self), Cluster: b.identity().Cluster,
	}))
	if reasonCode(err) != metapb.Reason_CODE_FOREIGN_CLUSTER || !strings.Contains(err.Error(), "this is cluster") {
		t.Errorf("a node of another cluster: %v", err)
	}
	// On Raft's own port too.
	layer := &streamLayer{cluster: b.identity().Cluster, done: make(chan struct{})}
	layer.mu.conns = map[net.Conn]struct{}{}
	if _, err := layer.Dial(peerAddress(a.raftAddr, a.ID()), time.Second); err == nil || !strings.Contains(err.Error(), "this is cluster") {
		t.Errorf("Raft connection of another cluster: %v", err)
	}
	layer.cluster = a.identity().Cluster
	if _, err := layer.Dial(peerAddress(a.raftAddr, "meta1-oldself"), time.Second); err == nil || !strings.Contains(err.Error(), "this is node") {
		t.Errorf("Raft connection to somebody else: %v", err)
	}
	c := newClient(t, time.Second, a)
	info := serverInfo(1, 1)
	info.Cluster = b.identity().Cluster
	if err := c.Register(t.Context(), info); !errors.Is(err, metaclient.ErrForeignCluster) {
		t.Errorf("a memory server of another cluster: %v", err)
	}
	// A client of one cluster is not told by another that its volume is gone,
	// and finds its own among several addresses.
	both := newClient(t, time.Second, b, a)
	registerServers(t, newClient(t, time.Second, b), 2)
	if _, err := both.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 1 << 20, Redundancy: raid.Geometry{K: 1}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := both.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "h"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Renew(t.Context(), l.Volume, l.Epoch, client.Report{State: client.StateHealthy}); err != nil {
		t.Errorf("renew where one of two nodes is foreign: %v", err)
	}
	stop(t, b)
	impatient := newClient(t, 100*time.Millisecond, a)
	if _, err := both.Renew(t.Context(), l.Volume, l.Epoch, client.Report{State: client.StateHealthy}); errors.Is(err, client.ErrFenced) {
		t.Errorf("another cluster fences: %v", err)
	}
	if _, err := impatient.Renew(t.Context(), l.Volume, l.Epoch, client.Report{State: client.StateHealthy}); !errors.Is(err, client.ErrFenced) {
		t.Errorf("the test proves nothing: %v", err)
	}
	// A node of a cluster does not adopt another.
	b = start(t, b.cfg)
	waitReady(t, b)
	_, err = b.clusterAt(a.APIURL()).Adopt(t.Context(), connect.NewRequest(&metapb.AdoptRequest{Cluster: "x", Proposer: "y", NodeId: a.ID()}))
	if reasonCode(err) != metapb.Reason_CODE_FOREIGN_CLUSTER {
		t.Errorf("adopt: %v", err)
	}
}

// TestUnreachable is a client whose nodes are all gone.
func TestUnreachable(t *testing.T) {
	c, err := metaclient.New([]string{heldAddr(t)}, metaclient.WithPatience(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Status(t.Context())
	if !errors.Is(err, metaclient.ErrUnreachable) || !errors.Is(err, client.ErrNoQuorum) {
		t.Errorf("nobody there: %v", err)
	}
	if err := c.DeleteVolume(t.Context(), "v", false); !errors.Is(err, metaclient.ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := metaclient.New(nil); err == nil {
		t.Error("a client of nobody")
	}
	for _, u := range []string{"", "host", "https://h:1", "http://h:1/path", "ftp://h:1"} {
		if _, err := metaclient.New([]string{u}); err == nil {
			t.Errorf("address %q is accepted", u)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
