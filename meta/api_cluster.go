package meta

import (
	"context"
	"errors"
	"net"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/state"
)

type clusterAPI struct{ n *Node }

func (a clusterAPI) GetNode(context.Context, *connect.Request[metapb.GetNodeRequest]) (*connect.Response[metapb.GetNodeResponse], error) {
	id := a.n.identity()
	res := &metapb.GetNodeResponse{
		Node: a.n.selfMessage(), Cluster: id.Cluster, Bootstrapped: id.Member, Applied: a.n.disks.state.Applied(), Generation: id.generation(),
	}
	if err := a.n.disks.state.View(func(s *state.State) { res.Level, res.LevelBy = uint32(s.Level), s.LevelBy }); err != nil {
		res.Level = uint32(a.n.disks.state.Level())
	}
	if p := a.n.peer(); p != nil {
		_, leader := p.raft.LeaderWithID()
		res.Node.Leader = string(leader) == id.ID
		err := a.n.disks.state.View(func(s *state.State) {
			if node := s.Nodes[string(leader)]; node != nil {
				res.Leader = nodeMessage(node)
				res.Leader.Leader = true
			}
		})
		for _, v := range p.raft.GetConfiguration().Configuration().Servers {
			res.Node.Voter = res.Node.Voter || string(v.ID) == id.ID && v.Suffrage == raft.Voter
		}
		if err != nil {
			return nil, apiError(err)
		}
	}
	return connect.NewResponse(res), nil
}

func (a clusterAPI) Adopt(_ context.Context, req *connect.Request[metapb.AdoptRequest]) (*connect.Response[metapb.AdoptResponse], error) {
	return answer(&metapb.AdoptResponse{}, a.n.adopt(req.Msg))
}

func (a clusterAPI) Join(ctx context.Context, req *connect.Request[metapb.JoinRequest]) (*connect.Response[metapb.JoinResponse], error) {
	m := req.Msg.GetNode()
	_, p, err := a.n.leading(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	id := a.n.identity()
	if req.Msg.Cluster != "" && req.Msg.Cluster != id.Cluster {
		return nil, refused(metapb.Reason_CODE_FOREIGN_CLUSTER, "node %s belongs to cluster %s, this is cluster %s: check its --join, or start it with an empty folder", m.GetId(), req.Msg.Cluster, id.Cluster)
	}
	if g := max(req.Msg.Generation, 1); req.Msg.Cluster != "" && g != id.generation() {
		if g > id.generation() {
			a.n.superseded(g)
		}
		return nil, refused(metapb.Reason_CODE_FOREIGN_CLUSTER, "node %s is of generation %d of cluster %s, this is generation %d: the cluster was restored or recovered in between. Start the older one with an empty folder", m.GetId(), g, id.Cluster, id.generation())
	}
	node := state.Node{ID: m.GetId(), Name: m.GetName(), API: m.GetApiUrl(), Raft: m.GetRaftAddr(), Build: buildFrom(m.GetBuild())}
	if err := validNode(node); err != nil {
		return nil, refused(metapb.Reason_CODE_INVALID, "join: %v", err)
	}
	if err := a.n.knowsLevel(node); err != nil {
		return nil, apiError(err)
	}
	if err := a.n.admit(ctx, p, node, m.GetProcess(), req.Msg.Known); err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&metapb.JoinResponse{Cluster: id.Cluster}), nil
}

func validNode(n state.Node) error {
	if !state.ValidName(n.Name) || nameOf(n.ID) != n.Name {
		return errors.New("a node needs a name, and an id that begins with it")
	}
	if !n.Build.Valid() {
		return errors.New("a version has up to 64 printable characters")
	}
	if _, err := metaclient.ParseURL(n.API); err != nil {
		return err
	}
	_, _, err := net.SplitHostPort(n.Raft)
	return err
}

func (a clusterAPI) Leave(ctx context.Context, req *connect.Request[metapb.LeaveRequest]) (*connect.Response[metapb.LeaveResponse], error) {
	_, p, err := a.n.leading(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	return answer(&metapb.LeaveResponse{}, a.n.leave(ctx, p, req.Msg.Name))
}

func (a clusterAPI) ListMembers(ctx context.Context, _ *connect.Request[metapb.ListMembersRequest]) (*connect.Response[metapb.ListMembersResponse], error) {
	members, err := a.n.members(ctx)
	return answer(&metapb.ListMembersResponse{Cluster: a.n.identity().Cluster, Members: members}, err)
}

// members lists the nodes with what the state says of them. Only the leader
// answers.
func (n *Node) members(ctx context.Context) ([]*metapb.Node, error) {
	_, p, err := n.leading(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := n.configuration(ctx, p)
	if err != nil {
		return nil, err
	}
	self := n.identity().ID
	out := make([]*metapb.Node, 0, len(nodes))
	err = n.disks.state.View(func(s *state.State) {
		for _, v := range nodes {
			hostPort, _ := splitPeerAddress(v.Address)
			m := &metapb.Node{Name: nameOf(string(v.ID)), Id: string(v.ID), RaftAddr: hostPort}
			if node := s.Nodes[string(v.ID)]; node != nil {
				m = nodeMessage(node)
			}
			m.Leader, m.Voter = string(v.ID) == self, v.Suffrage == raft.Voter
			out = append(out, m)
		}
	})
	return out, err
}

// nameOf is the name in a node's id, for nodes that never said theirs.
func nameOf(id string) string { return id[:max(len(id)-idRandom, 0)] }
