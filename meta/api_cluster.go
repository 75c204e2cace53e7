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
	self := a.n.self()
	res := &metapb.GetNodeResponse{
		Node: nodeMessage(&self), Cluster: id.Cluster, Bootstrapped: id.Member, Applied: a.n.disks.state.Applied(),
	}
	if p := a.n.peer(); p != nil {
		_, leader := p.raft.LeaderWithID()
		res.Node.Leader = string(leader) == id.ID
		err := a.n.disks.state.View(func(s *state.State) {
			if node := s.Nodes[string(leader)]; node != nil {
				res.Leader = nodeMessage(node)
				res.Leader.Leader = true
			}
			_, res.Node.Voter = s.Nodes[id.ID]
		})
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
	node := state.Node{ID: m.GetId(), Name: m.GetName(), API: m.GetApiUrl(), Raft: m.GetRaftAddr()}
	if err := validNode(node); err != nil {
		return nil, refused(metapb.Reason_CODE_INVALID, "join: %v", err)
	}
	if err := a.n.admit(ctx, p, node, req.Msg.Known); err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&metapb.JoinResponse{Cluster: id.Cluster}), nil
}

func validNode(n state.Node) error {
	if !state.ValidName(n.Name) || nameOf(n.ID) != n.Name {
		return errors.New("a node needs a name, and an id that begins with it")
	}
	if _, err := metaclient.ParseURL(n.API); err != nil {
		return err
	}
	_, _, err := net.SplitHostPort(n.Raft)
	return err
}

// admit makes a node a voter, or notes where it is now.
func (n *Node) admit(ctx context.Context, p *peer, node state.Node, known bool) error {
	voters, err := n.voters(ctx, p)
	if err != nil {
		return err
	}
	want := raft.Server{ID: raft.ServerID(node.ID), Address: peerAddress(node.Raft, node.ID)}
	var is, moved bool
	for _, v := range voters {
		if v.ID == want.ID {
			is, moved = true, v.Address != want.Address
		}
	}
	if !is && known {
		return refused(metapb.Reason_CODE_NOT_FOUND, "node %s is no voter of this cluster any more", node.ID)
	}
	if !is {
		if err := n.retire(ctx, p, voters, node); err != nil {
			return err
		}
	}
	var had *state.Node
	if err := n.disks.state.View(func(s *state.State) { had = s.Nodes[node.ID] }); err != nil {
		return err
	}
	if had == nil || *had != node {
		if _, err := n.propose(ctx, &state.Command{PutNode: &node}); err != nil {
			return err
		}
	}
	if is && !moved {
		return nil
	}
	n.log.Info("a node joins", "id", node.ID, "raft", node.Raft)
	return n.await(ctx, p.raft.AddVoter(want.ID, want.Address, 0, enqueueTimeout))
}

// retire removes the older self of a node that comes with an empty disk. Raft
// would lose votes if it let the new one answer for it. An older self that
// answers keeps its name.
func (n *Node) retire(ctx context.Context, p *peer, voters []raft.Server, node state.Node) error {
	for _, v := range voters {
		if nameOf(string(v.ID)) != node.Name {
			continue
		}
		if p.alive(v.Address) {
			return refused(metapb.Reason_CODE_ID_IN_USE, "node %s lives at %s: choose another --name", node.Name, v.Address)
		}
		n.log.Warn("a node comes back with an empty disk", "old", v.ID, "new", node.ID)
		if err := n.dismiss(ctx, p, v.ID); err != nil {
			return err
		}
	}
	return nil
}

// dismiss removes a voter.
func (n *Node) dismiss(ctx context.Context, p *peer, id raft.ServerID) error {
	if _, err := n.propose(ctx, &state.Command{RemoveNode: &state.RemoveNode{ID: string(id)}}); err != nil {
		return err
	}
	return n.await(ctx, p.raft.RemoveServer(id, 0, enqueueTimeout))
}

func (a clusterAPI) Leave(ctx context.Context, req *connect.Request[metapb.LeaveRequest]) (*connect.Response[metapb.LeaveResponse], error) {
	_, p, err := a.n.leading(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	members, err := a.n.members(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	for _, m := range members {
		if m.Name != req.Msg.Name && m.Id != req.Msg.Name {
			continue
		}
		if len(members) == 1 {
			return nil, refused(metapb.Reason_CODE_INVALID, "node %s is the last of the cluster: stop it instead", m.Name)
		}
		return answer(&metapb.LeaveResponse{}, a.n.dismiss(ctx, p, raft.ServerID(m.Id)))
	}
	return connect.NewResponse(&metapb.LeaveResponse{}), nil // gone already
}

func (a clusterAPI) ListMembers(ctx context.Context, _ *connect.Request[metapb.ListMembersRequest]) (*connect.Response[metapb.ListMembersResponse], error) {
	members, err := a.n.members(ctx)
	return answer(&metapb.ListMembersResponse{Cluster: a.n.identity().Cluster, Members: members}, err)
}

// voters gives Raft's configuration.
func (n *Node) voters(ctx context.Context, p *peer) ([]raft.Server, error) {
	f := p.raft.GetConfiguration()
	if err := n.await(ctx, f); err != nil {
		return nil, err
	}
	return f.Configuration().Servers, nil
}

// members lists the voters with what the state says of them. Only the leader
// answers.
func (n *Node) members(ctx context.Context) ([]*metapb.Node, error) {
	_, p, err := n.leading(ctx)
	if err != nil {
		return nil, err
	}
	voters, err := n.voters(ctx, p)
	if err != nil {
		return nil, err
	}
	self := n.identity().ID
	out := make([]*metapb.Node, 0, len(voters))
	err = n.disks.state.View(func(s *state.State) {
		for _, v := range voters {
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
