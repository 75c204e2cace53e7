package meta

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

// A copy of a living node's folder that says to be at the node's own addresses, as
// a clone with its settings does, ends too. Unnoticed it asks for votes in the
// node's name: who voted for the one in a term would in it vote for the other.
func TestCopyAtItsAddresses(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	nodes := startAll(t, cfgs)
	at := (leaderOf(t, nodes) + 1) % 3
	eventually(t, "it knows where it is", func() (known bool) {
		err := nodes[at].disks.state.View(func(s *state.State) { known = s.Nodes[nodes[at].ID()] != nil })
		return err == nil && known
	})
	stop(t, nodes[at])
	twin := cfgs[at]
	twin.Dir = copyNode(t, cfgs[at].Dir)
	twin.APIAdvertise, twin.RaftAdvertise = twin.APIListen, twin.RaftListen
	twin.APIListen, twin.RaftListen = "127.0.0.1:0", "127.0.0.1:0"
	nodes[at] = start(t, cfgs[at])
	waitReady(t, nodes...)
	if n, err := Start(t.Context(), twin); err == nil || !strings.Contains(err.Error(), nodes[at].APIURL()) {
		t.Errorf("a copy of a living node starts: %v", err)
		if err == nil {
			stop(t, n)
		}
	}
	// Nor does the leader let it be.
	self := nodes[at].selfMessage()
	self.Process = "another"
	_, err := nodes[at].joinAt(nodes[at].APIURL()).Join(t.Context(), connect.NewRequest(&metapb.JoinRequest{Node: self, Known: true}))
	if reasonCode(err) != metapb.Reason_CODE_ID_IN_USE || !strings.Contains(err.Error(), nodes[at].RaftAddr()) {
		t.Errorf("a copy at the node's addresses: %v", err)
	}
}

// A copy that is started while the node is stopped, and names no other nodes, takes its
// place: then the node itself ends. Two of one name are never there.
func TestCopyWithoutJoin(t *testing.T) {
	t.Parallel()
	cfgs := threeConfigs(t)
	nodes := startAll(t, cfgs)
	at := (leaderOf(t, nodes) + 1) % 3
	eventually(t, "all know where all are", func() (known bool) {
		err := nodes[at].disks.state.View(func(s *state.State) { known = len(s.Nodes) == 3 })
		return err == nil && known
	})
	stop(t, nodes[at])
	twin := cfgs[at]
	twin.Dir = copyNode(t, cfgs[at].Dir)
	twin.APIListen, twin.RaftListen, twin.Join, twin.BootstrapExpect = "127.0.0.1:0", "127.0.0.1:0", nil, 0
	c := start(t, twin)
	waitReady(t, c)
	back := cfgs[at]
	back.Join, back.BootstrapExpect = nil, 0
	n, err := Start(t.Context(), back)
	if err != nil {
		return // it knew of the copy
	}
	defer stop(t, n)
	select {
	case <-n.Done():
	case <-c.Done():
	case <-time.After(time.Minute):
		t.Error("a node and a copy of it live beside each other")
	}
}
