package meta

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

// virtual is a cluster in one synctest bubble: real disks, Raft in memory,
// virtual time.
type virtual struct {
	t          *testing.T
	cfgs       []Config
	nodes      []*Node
	transports []*raft.InmemTransport
}

func newVirtual(t *testing.T, n int) *virtual {
	v := &virtual{t: t, nodes: make([]*Node, n), transports: make([]*raft.InmemTransport, n)}
	var voters []raft.Server
	for i := range n {
		cfg, err := Config{Dir: t.TempDir(), Name: fmt.Sprintf("meta%d", i+1), Logger: quiet(), dialBack: booksOnly}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		v.cfgs = append(v.cfgs, cfg)
		if v.nodes[i], err = open(cfg); err != nil {
			t.Fatal(err)
		}
		v.nodes[i].raftAddr = fmt.Sprintf("host%d:1", i)
		voters = append(voters, raft.Server{ID: raft.ServerID(v.nodes[i].ID()), Address: v.address(i)})
	}
	for i, node := range v.nodes {
		v.connect(i)
		if i == 0 {
			if err := node.bootstrap(voters, v.transports[0]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		v.adopt(i, node)
	}
	return v
}

func (v *virtual) address(i int) raft.ServerAddress {
	return peerAddress(fmt.Sprintf("host%d:1", i), v.nodes[i].ID())
}

func (v *virtual) adopt(i int, node *Node) {
	err := node.setIdentity(func(id *identity) error {
		id.Cluster, id.Member = v.nodes[0].identity().Cluster, true
		return nil
	})
	if err == nil {
		err = node.startRaft(v.transports[i])
	}
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *virtual) connect(i int) {
	_, v.transports[i] = raft.NewInmemTransportWithTimeout(v.address(i), 500*time.Millisecond)
	for j, t := range v.transports {
		if t != nil && j != i {
			v.link(i, j)
		}
	}
}

func (v *virtual) link(i, j int) {
	v.transports[i].Connect(v.transports[j].LocalAddr(), v.transports[j])
	v.transports[j].Connect(v.transports[i].LocalAddr(), v.transports[i])
}

// cut separates node i from all others.
func (v *virtual) cut(i int) {
	for j, t := range v.transports {
		if j != i {
			t.Disconnect(v.transports[i].LocalAddr())
			v.transports[i].Disconnect(t.LocalAddr())
		}
	}
}

func (v *virtual) stop(i int) {
	v.t.Helper()
	v.transports[i].DisconnectAll()
	if err := v.nodes[i].Close(); err != nil {
		v.t.Errorf("close: %v", err)
	}
}

// restart opens node i again from its disk.
func (v *virtual) restart(i int) {
	v.t.Helper()
	node, err := open(v.cfgs[i])
	if err != nil {
		v.t.Fatal(err)
	}
	node.raftAddr = fmt.Sprintf("host%d:1", i)
	v.nodes[i] = node
	v.connect(i)
	if err := node.startRaft(v.transports[i]); err != nil {
		v.t.Fatal(err)
	}
}

// leader waits for one among the given nodes.
func (v *virtual) leader(among ...int) int {
	v.t.Helper()
	for range 200 {
		for _, i := range among {
			if _, _, err := v.nodes[i].leading(context.Background()); err == nil {
				return i
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	v.t.Fatal("no leader in 20 s")
	return -1
}

func (v *virtual) register(i int, id string, life uint64) error {
	_, err := serverAPI{v.nodes[i]}.Register(context.Background(), connect.NewRequest(&metapb.RegisterRequest{
		Id: id, Incarnation: life, Addr: "tcp://" + id, MemoryTotal: gib,
	}))
	return err
}

func (v *virtual) attach(i int, holder string, takeover bool) (*metapb.AttachResponse, error) {
	res, err := volumeAPI{v.nodes[i]}.Attach(context.Background(), connect.NewRequest(&metapb.AttachRequest{
		Volume: "v", Holder: holder, Takeover: takeover,
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (v *virtual) renew(i int, l *metapb.AttachResponse) error {
	_, err := volumeAPI{v.nodes[i]}.Renew(context.Background(), connect.NewRequest(&metapb.RenewRequest{
		Volume: l.Layout.Volume, Epoch: l.Layout.Epoch,
	}))
	return err
}

func (v *virtual) create(i int) {
	v.t.Helper()
	_, err := volumeAPI{v.nodes[i]}.CreateVolume(context.Background(), connect.NewRequest(&metapb.CreateVolumeRequest{
		Name: "v", SizeBytes: 1 << 20, Redundancy: "mirror:2",
	}))
	if err != nil {
		v.t.Fatal(err)
	}
}

// The lease belongs to its holder for its TTL and to nobody longer; a leader
// that was cut off extends nothing; a new leader gives the whole TTL again.
func TestLeaseInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 3)
		at := v.leader(0, 1, 2)
		for _, id := range []string{"s0", "s1"} {
			if err := v.register(at, id, 1); err != nil {
				t.Fatal(err)
			}
		}
		v.create(at)
		first, err := v.attach(at, "a", false)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if _, err := v.attach(at, "b", false); reasonCode(err) != metapb.Reason_CODE_IN_USE {
			t.Errorf("after 9 of 10 s: %v", err)
		}
		if err := v.renew(at, first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)

		// The leader is cut off in the last second of the lease.
		rest := []int{(at + 1) % 3, (at + 2) % 3}
		v.cut(at)
		next := v.leader(rest...)
		if err := v.renew(at, first); reasonCode(err) != metapb.Reason_CODE_NO_QUORUM {
			t.Errorf("renewed by a leader that was cut off: %v", err)
		}
		if _, err := v.attach(next, "b", false); reasonCode(err) != metapb.Reason_CODE_IN_USE {
			t.Errorf("a change of leader ended a lease: %v", err)
		}
		time.Sleep(10 * time.Second)
		second, err := v.attach(next, "b", false)
		if err != nil || second.Layout.Epoch <= first.Layout.Epoch {
			t.Fatalf("after the TTL: %v, %v", second, err)
		}
		if err := v.renew(next, first); reasonCode(err) != metapb.Reason_CODE_FENCED {
			t.Errorf("renewed by the former holder: %v", err)
		}
		third, err := v.attach(next, "c", true)
		if err != nil || third.Layout.Epoch <= second.Layout.Epoch {
			t.Fatalf("takeover: %v, %v", third, err)
		}

		// The old leader comes back and follows; all have the same state.
		for _, j := range rest {
			v.link(at, j)
		}
		v.leader(0, 1, 2)
		time.Sleep(5 * time.Second)
		want := v.nodes[next].disks.state.Applied()
		for i, n := range v.nodes {
			err := n.disks.state.View(func(s *state.State) {
				vol, _ := s.VolumeByName("v")
				if vol == nil || vol.Lease == nil || vol.Lease.Holder != "c" {
					t.Errorf("node %d: %+v", i, vol)
				}
			})
			if err != nil || n.disks.state.Applied() != want {
				t.Errorf("node %d: applied %d of %d, %v", i, n.disks.state.Applied(), want, err)
			}
			v.stop(i)
		}
	})
}

func serverStateAt(t *testing.T, n *Node, id string) (st metapb.ServerState) {
	t.Helper()
	res, err := serverAPI{n}.ListServers(context.Background(), connect.NewRequest(&metapb.ListServersRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range res.Msg.Servers {
		if s.Id == id {
			st = s.State
		}
	}
	return st
}

// A silent server is suspect, then down; it keeps its data and comes back. An
// id is defended while its owner is heard.
func TestServersInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		v.leader(0)
		n := v.nodes[0]
		beat := func() *metapb.HeartbeatResponse {
			t.Helper()
			res, err := serverAPI{n}.Heartbeat(context.Background(), connect.NewRequest(&metapb.HeartbeatRequest{
				Id: "s0", Incarnation: 1, MemoryTotal: gib, MemoryUsed: 7,
			}))
			if err != nil {
				t.Fatal(err)
			}
			return res.Msg
		}
		if !beat().Unknown {
			t.Error("a server that never registered is known")
		}
		if err := v.register(0, "s0", 1); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			time.Sleep(time.Second)
			if r := beat(); r.Unknown {
				t.Fatal("unknown")
			}
		}
		_, err := serverAPI{n}.Register(context.Background(), connect.NewRequest(&metapb.RegisterRequest{
			Id: "s0", Incarnation: 2, Addr: "tcp://elsewhere", MemoryTotal: gib,
		}))
		if reasonCode(err) != metapb.Reason_CODE_ID_IN_USE {
			t.Errorf("another server of the id: %v", err)
		}
		if s := serverStateAt(t, n, "s0"); s != metapb.ServerState_SERVER_STATE_UP {
			t.Errorf("with heartbeats: %v", s)
		}
		time.Sleep(2500 * time.Millisecond)
		if s := serverStateAt(t, n, "s0"); s != metapb.ServerState_SERVER_STATE_SUSPECT {
			t.Errorf("after 2.5 s: %v", s)
		}
		time.Sleep(26 * time.Second)
		if s := serverStateAt(t, n, "s0"); s != metapb.ServerState_SERVER_STATE_SUSPECT {
			t.Errorf("after 28.5 s: %v", s)
		}
		time.Sleep(2 * time.Second)
		if s := serverStateAt(t, n, "s0"); s != metapb.ServerState_SERVER_STATE_DOWN {
			t.Errorf("after 30.5 s: %v", s)
		}
		beat()
		if s := serverStateAt(t, n, "s0"); s != metapb.ServerState_SERVER_STATE_UP {
			t.Errorf("heard again: %v", s)
		}
		v.stop(0)
	})
}

// A server is killed while its registration is on its way, the next one
// registers, and then the first registration arrives: it drives a living server
// out. That one is back once the ghost has been silent for a while; half an hour
// of faults found that it never was.
func TestLateRegistrationInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		v.leader(0)
		n := v.nodes[0]
		beat := func(life uint64) bool {
			t.Helper()
			res, err := serverAPI{n}.Heartbeat(context.Background(), connect.NewRequest(&metapb.HeartbeatRequest{Id: "s0", Incarnation: life}))
			if err != nil {
				t.Fatal(err)
			}
			return !res.Msg.Unknown
		}
		for _, life := range []uint64{7, 6} { // 6 is the ghost
			if err := v.register(0, "s0", life); err != nil {
				t.Fatal(err)
			}
		}
		if beat(7) {
			t.Fatal("the life that was driven out is known")
		}
		if err := v.register(0, "s0", 7); reasonCode(err) != metapb.Reason_CODE_INVALID {
			t.Errorf("a former life registers while the present one may live: %v", err)
		}
		time.Sleep(3 * time.Second)
		if err := v.register(0, "s0", 7); err != nil || !beat(7) {
			t.Fatalf("the living server is not back when the ghost was silent for 3 s: %v", err)
		}
		if err := v.register(0, "s0", 6); reasonCode(err) != metapb.Reason_CODE_INVALID {
			t.Errorf("the ghost again: %v", err)
		}

		// One that was heard is no ghost, until it is down.
		time.Sleep(20 * time.Second)
		if err := v.register(0, "s0", 6); reasonCode(err) != metapb.Reason_CODE_INVALID {
			t.Errorf("a former life, with the present one silent: %v", err)
		}
		if !beat(7) {
			t.Error("a server that was silent for less than the grace is forgotten")
		}
		v.stop(0)
	})
}

// Nodes stop and start from disk in turn, under load; nothing that was
// answered is forgotten. A node that missed much gets a snapshot.
func TestRestartsInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 3)
		all := []int{0, 1, 2}
		answered := 0
		add := func(at int) {
			t.Helper()
			if err := v.register(at, fmt.Sprintf("s%03d", answered), 1); err != nil {
				t.Fatal(err)
			}
			answered++
		}
		v.leader(all...)
		for round := range 3 {
			gone := round
			v.stop(gone)
			rest := []int{(gone + 1) % 3, (gone + 2) % 3}
			at := v.leader(rest...)
			for range 20 {
				add(at)
			}
			if round == 1 {
				p := v.nodes[at].peer()
				c := p.raft.ReloadableConfig()
				c.TrailingLogs = 1
				if err := p.raft.ReloadConfig(c); err != nil {
					t.Fatal(err)
				}
				if err := p.raft.Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
			}
			v.restart(gone)
			at = v.leader(all...)
			add(at)
		}
		time.Sleep(5 * time.Second)
		for i, n := range v.nodes {
			err := n.disks.state.View(func(s *state.State) {
				if len(s.Servers) != answered {
					t.Errorf("node %d knows %d of %d servers", i, len(s.Servers), answered)
				}
				if err := s.Check(); err != nil {
					t.Errorf("node %d: %v", i, err)
				}
			})
			if err != nil {
				t.Error(err)
			}
			v.stop(i)
		}
	})
}
