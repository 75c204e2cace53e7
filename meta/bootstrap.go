package meta

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/internal/jitter"
	"dmps/meta/level"
	"dmps/meta/metapb"
	"dmps/meta/metapb/metapbconnect"
	"dmps/meta/state"
)

// How nodes become a cluster.
//
// A node without state asks the nodes it was told of (--join) who they are.
// When one of them belongs to a cluster, the node joins that. Otherwise, when
// as many as expected are there, the one with the lowest name proposes a
// cluster id: it writes it down, and every other node adopts it, on its disk,
// before it says so. A node adopts one cluster in its life, so that of two
// proposers at most one gets all. Only then the proposer starts Raft with all
// of them as voters, and the others start theirs when they see that. Each step
// can be repeated after a crash; a node with state never comes here again.
const formEvery = 300 * time.Millisecond

// bootstrap makes a new cluster of these voters, this node among them.
func (n *Node) bootstrap(voters []raft.Server, transport raft.Transport) error {
	err := n.setIdentity(func(id *identity) error {
		if id.Cluster == "" {
			id.Cluster, id.Proposer = newClusterID(), id.ID
		}
		return nil
	})
	if err != nil {
		return err
	}
	if n.peer() == nil {
		if err := n.startRaft(transport); err != nil {
			return err
		}
	}
	err = n.peer().raft.BootstrapCluster(raft.Configuration{Servers: voters}).Error()
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) { // a crash came after it
		return fmt.Errorf("bootstrap: %w", err)
	}
	n.log.Info("bootstrapped a metadata cluster", "cluster", n.identity().Cluster, "voters", len(voters))
	return n.setIdentity(func(id *identity) error { id.Member = true; return nil })
}

func newClusterID() string { return strings.ToLower(rand.Text()[:16]) }

// seen is another node, as it described itself.
type seen struct {
	*metapb.GetNodeResponse
	url string
}

// form looks for a cluster until this node is part of one. An error is final.
func (n *Node) form(ctx context.Context) error {
	var last string
	for {
		waiting, err := n.formOnce(ctx)
		if err != nil || waiting == "" {
			return err
		}
		if waiting != last {
			n.log.Info("not part of a cluster yet", "waiting", waiting)
			last = waiting
		}
		if !sleep(ctx, jitter.Around(formEvery)) {
			return ctx.Err()
		}
	}
}

// formOnce tries once, and says what it waits for: nothing when done.
func (n *Node) formOnce(ctx context.Context) (waiting string, err error) {
	others := n.look(ctx)
	id := n.identity() // after looking: it may have been adopted meanwhile
	for _, o := range others {
		if !o.Bootstrapped {
			continue
		}
		if err := n.cfg.build.Check("cluster "+o.Cluster, max(level.Level(o.Level), 1), o.LevelBy); err != nil {
			return "", fmt.Errorf("%s: %w", o.url, err)
		}
		switch {
		case id.Cluster == "", id.Cluster == o.Cluster && id.Proposer == "":
			return n.join(ctx, o)
		case id.Cluster == o.Cluster: // it is one of the voters that o bootstrapped with
			return "", n.takePart()
		default:
			return "", fmt.Errorf("node %s belongs to cluster %s, and %s to cluster %s: check --join, or start with an empty folder", id.ID, id.Cluster, o.url, o.Cluster)
		}
	}
	want := n.cfg.BootstrapExpect
	switch {
	case want == 0:
		return "a node of a cluster to answer at " + strings.Join(n.cfg.Join, ", "), nil
	case id.Cluster != "" && id.Proposer == "":
		return "cluster " + id.Cluster + " to answer", nil
	case id.Cluster != "" && id.Proposer != id.ID:
		return "node " + id.Proposer + " to bootstrap cluster " + id.Cluster, nil
	case len(others)+1 < want:
		return fmt.Sprintf("%d of %d nodes", want-1-len(others), want), nil
	case len(others)+1 > want:
		return "", fmt.Errorf("%d nodes are there, but --bootstrap-expect is %d: give all of them the same number", len(others)+1, want)
	case len(others) > 0 && slices.MinFunc(others, byName).Node.Name < id.Name:
		return "node " + slices.MinFunc(others, byName).Node.Name + " to bootstrap", nil
	}
	return n.propagate(ctx, others)
}

func byName(a, b seen) int { return cmp.Compare(a.Node.Name, b.Node.Name) }

// look asks the other nodes who they are.
func (n *Node) look(ctx context.Context) []seen {
	var out []seen
	ids := map[string]bool{n.identity().ID: true}
	for _, u := range n.cfg.Join {
		res, err := n.clusterAt(u).GetNode(ctx, connect.NewRequest(&metapb.GetNodeRequest{}))
		if err != nil || res.Msg.Node == nil || ids[res.Msg.Node.Id] {
			continue // not there yet, or seen already; --join may name this node too
		}
		ids[res.Msg.Node.Id] = true
		out = append(out, seen{res.Msg, u})
	}
	return out
}

func (n *Node) joinAt(url string) metapbconnect.ClusterServiceClient {
	return metapbconnect.NewClusterServiceClient(n.joins, url, connect.WithReadMaxBytes(1<<20))
}

func (n *Node) clusterAt(url string) metapbconnect.ClusterServiceClient {
	return metapbconnect.NewClusterServiceClient(n.peersTo, url, connect.WithReadMaxBytes(1<<20))
}

// propagate has every other node adopt this one's cluster, then bootstraps.
func (n *Node) propagate(ctx context.Context, others []seen) (waiting string, err error) {
	names := map[string]string{n.cfg.Name: n.APIURL()}
	for _, o := range others {
		if at, ok := names[o.Node.Name]; ok {
			return "", fmt.Errorf("two nodes are called %s, at %s and %s: give each its own --name", o.Node.Name, at, o.url)
		}
		names[o.Node.Name] = o.url
	}
	begin, err := n.common(others)
	if err != nil {
		return "", err
	}
	err = n.setIdentity(func(id *identity) error {
		if id.Cluster == "" {
			id.Cluster, id.Proposer = newClusterID(), id.ID
		}
		if id.Proposer == id.ID {
			id.Begin = begin
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	id := n.identity()
	if id.Proposer != id.ID {
		return "node " + id.Proposer + " to bootstrap", nil // adopted another's in between
	}
	voters := []raft.Server{{ID: raft.ServerID(id.ID), Address: peerAddress(n.raftAddr, id.ID)}}
	for _, o := range others {
		_, err := n.clusterAt(o.url).Adopt(ctx, connect.NewRequest(&metapb.AdoptRequest{
			Cluster: id.Cluster, Proposer: id.ID, NodeId: o.Node.Id, Level: uint32(id.Begin),
		}))
		if err != nil {
			return fmt.Sprintf("node %s to agree: %v", o.Node.Name, err), nil
		}
		voters = append(voters, raft.Server{ID: raft.ServerID(o.Node.Id), Address: peerAddress(o.Node.RaftAddr, o.Node.Id)})
	}
	return "", n.bootstrap(voters, nil)
}

// common is the newest level that this node and others know: what their cluster begins with.
func (n *Node) common(others []seen) (level.Level, error) {
	newest, oldest := n.cfg.build, n.cfg.build
	for _, o := range others {
		b := buildFrom(o.Node.Build)
		if max(b.Highest, 1) < oldest.Highest {
			oldest = b
		}
		if b.Lowest > newest.Lowest {
			newest = b
		}
	}
	begin := max(oldest.Highest, 1)
	if !newest.Knows(begin) {
		return 0, fmt.Errorf("no level is known to all nodes: one is %v, another %v: install the same version on all", oldest, newest)
	}
	return begin, nil
}

// adopt is the other side of propagate.
func (n *Node) adopt(req *metapb.AdoptRequest) error {
	err := n.setIdentity(func(id *identity) error {
		switch {
		case req.NodeId != id.ID:
			return refused(metapb.Reason_CODE_INVALID, "this is node %s, not %s", id.ID, req.NodeId)
		case req.Cluster == "" || req.Proposer == "":
			return refused(metapb.Reason_CODE_INVALID, "no cluster to adopt")
		case n.mu.peer != nil || id.Cluster != "" && id.Cluster != req.Cluster:
			return refused(metapb.Reason_CODE_FOREIGN_CLUSTER, "node %s belongs to cluster %s", id.ID, id.Cluster)
		case !n.cfg.build.Knows(level.Level(req.Level)):
			return refused(metapb.Reason_CODE_LEVEL, "node %s does not know level %d: it is %v", id.ID, req.Level, n.cfg.build)
		case n.cfg.BootstrapExpect < 2:
			return refused(metapb.Reason_CODE_INVALID, "node %s was not started to form a cluster: use --bootstrap-expect", id.ID)
		}
		id.Cluster, id.Proposer, id.Begin = req.Cluster, req.Proposer, level.Level(req.Level)
		return nil
	})
	return err
}

// join becomes part of a cluster that exists, first without a vote (promote). Raft
// runs before the node is added, idle without a configuration: the leader asks it
// at its Raft address before.
func (n *Node) join(ctx context.Context, o seen) (waiting string, err error) {
	err = n.setIdentity(func(id *identity) error { id.Cluster, id.Generation = o.Cluster, o.Generation; return nil })
	if err != nil {
		return "", err
	}
	if n.peer() == nil {
		if err := n.startRaft(nil); err != nil {
			return "", err
		}
	}
	_, err = n.joinAt(o.url).Join(ctx, connect.NewRequest(&metapb.JoinRequest{Node: n.selfMessage(), Cluster: o.Cluster, Generation: o.Generation}))
	if reasonCode(err) == metapb.Reason_CODE_LEVEL {
		return "", fmt.Errorf("%w: %s: %w", ErrLevel, o.url, err)
	}
	if err != nil {
		return fmt.Sprintf("cluster %s to let it in: %v", o.Cluster, err), nil
	}
	n.log.Info("joined a metadata cluster", "cluster", o.Cluster)
	return "", n.setIdentity(func(id *identity) error { id.Member = true; return nil })
}

// takePart starts Raft for the first time on a node that adopted a cluster. It
// may run already: the node had begun to join, not having adopted by then.
func (n *Node) takePart() error {
	if err := n.setIdentity(func(id *identity) error { id.Member = true; return nil }); err != nil {
		return err
	}
	n.log.Info("part of the metadata cluster", "cluster", n.identity().Cluster)
	if n.peer() == nil { // join may have started it, when the adoption came between
		if err := n.startRaft(nil); err != nil {
			return err
		}
	}
	n.wg.Go(func() { n.greetPeers(n.ctx) })
	return nil
}

// greetPeers tells the leader where this node's API is and which version it is, at first
// and after a restart that may have changed either.
func (n *Node) greetPeers(ctx context.Context) {
	var last string
	for peers := n.peersKnown(); len(peers) > 0; peers = n.peersKnown() {
		for _, u := range peers {
			_, err := n.joinAt(u).Join(ctx, connect.NewRequest(&metapb.JoinRequest{
				Node: n.selfMessage(), Cluster: n.identity().Cluster, Generation: n.identity().generation(), Known: true,
			}))
			if err == nil {
				return
			}
			switch code := reasonCode(err); code {
			case metapb.Reason_CODE_INVALID:
				if text := err.Error(); text != last {
					n.log.Warn("the cluster does not take this node's addresses", "err", err)
					last = text
				}
			case metapb.Reason_CODE_LEVEL:
				n.fail(fmt.Errorf("%w: %s: %w", ErrLevel, u, err))
				return
			case metapb.Reason_CODE_FOREIGN_CLUSTER, metapb.Reason_CODE_ID_IN_USE:
				n.fail(fmt.Errorf("%s: %w", u, err))
				return
			case metapb.Reason_CODE_NOT_FOUND:
				n.fail(fmt.Errorf("%w: %s", ErrRemoved, u))
				return
			}
		}
		if !sleep(ctx, jitter.Around(2*time.Second)) {
			return
		}
	}
}

// peersKnown lists API addresses of other nodes: those that it was told of, and those in
// its state. A copy of a folder is noticed only by who is told of it.
func (n *Node) peersKnown() []string {
	out := slices.Clone(n.cfg.Join)
	// A state that cannot be asked ends the node, or waits for room.
	_ = n.disks.state.View(func(s *state.State) {
		for _, o := range s.Nodes {
			if o.ID != n.identity().ID && !slices.Contains(out, o.API) {
				out = append(out, o.API)
			}
		}
	})
	return out
}
