package metaclient

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/metapb/metapbconnect"
	"dmps/raid"
)

// Status gives the whole cluster, as the leader knows it.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	// A node that takes the question and does not answer is no reason to wait
	// for longer than the caller would without one.
	res, err := call(ctx, c, min(attemptTimeout, c.patience), "status", &metapb.GetStatusRequest{},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.GetStatusRequest]) (*connect.Response[metapb.GetStatusResponse], error) {
			return n.status.GetStatus(ctx, r)
		})
	if err != nil {
		return nil, err
	}
	st := &Status{
		Cluster: res.Cluster, Level: res.Level, Volumes: each(res.Volumes, volumeFrom),
		Servers: each(res.Servers, serverFrom), Meta: each(res.Members, nodeFrom),
	}
	st.Unreachable = each(res.Unreachable, func(u *metapb.UnreachableServer) Unreachable {
		return Unreachable{ID: raid.ServerID(u.GetId()), Addr: u.GetAddr(), Reason: u.GetReason(), Up: u.GetRegistered()}
	})
	if b := res.Rebalancing; b != nil {
		st.Rebalancing = &Rebalancing{Threshold: int(b.ThresholdPercent), Moved: b.Moved}
	}
	if c := res.Copysets; c != nil {
		st.Copysets = Copysets{Sets: c.Sets, Repairs: c.ByRepairs, Away: c.MembersAway, Failures: c.Failures, Loss: c.LossProbability}
	}
	return st, nil
}

// Members lists the meta nodes that vote, and says who leads.
func (c *Client) Members(ctx context.Context) ([]Node, error) {
	res, err := call(ctx, c, attemptTimeout, "list metadata nodes", &metapb.ListMembersRequest{},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.ListMembersRequest]) (*connect.Response[metapb.ListMembersResponse], error) {
			return n.cluster.ListMembers(ctx, r)
		})
	if err != nil {
		return nil, err
	}
	return each(res.Members, nodeFrom), nil
}

// Leave removes the meta node with this name or id from the voters. The last
// one cannot leave. A node that left already is no error.
func (c *Client) Leave(ctx context.Context, name string) error {
	_, err := call(ctx, c, attemptTimeout, "remove metadata node "+name, &metapb.LeaveRequest{Name: name},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.LeaveRequest]) (*connect.Response[metapb.LeaveResponse], error) {
			return n.cluster.Leave(ctx, r)
		})
	return err
}

// RaiseLevel has the cluster use what a higher level brings; 0: the highest that any of
// its nodes knows. It cannot be undone. It tells the level before and after. Errors: ErrLevel while a node does not answer
// or does not know the level.
func (c *Client) RaiseLevel(ctx context.Context, to uint32) (was, is uint32, err error) {
	res, err := call(ctx, c, 2*attemptTimeout, "raise the cluster's level", &metapb.RaiseLevelRequest{To: to},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RaiseLevelRequest]) (*connect.Response[metapb.RaiseLevelResponse], error) {
			return n.cluster.RaiseLevel(ctx, r)
		})
	if err != nil {
		return 0, 0, err
	}
	return res.Was, res.Level, nil
}

func nodeFrom(p *metapb.Node) Node {
	return Node{
		Name: p.GetName(), ID: p.GetId(), APIURL: p.GetApiUrl(), RaftAddr: p.GetRaftAddr(),
		Leader: p.GetLeader(), Voter: p.GetVoter(), Build: buildFrom(p.GetBuild()),
	}
}

// NodeInfo is what a meta node says of itself.
type NodeInfo struct {
	ID      string
	Cluster string // empty: it belongs to none yet
	Applied uint64 // index of the last command in its state
}

// NodeInfo asks one node, by its address, and nobody else; once, without
// patience. Errors: ErrUnreachable.
func (c *Client) NodeInfo(ctx context.Context, url string) (NodeInfo, error) {
	url, err := ParseURL(url)
	if err != nil {
		return NodeInfo{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	res, err := metapbconnect.NewClusterServiceClient(c.http, url, connect.WithReadMaxBytes(maxReply)).
		GetNode(ctx, connect.NewRequest(&metapb.GetNodeRequest{}))
	if err != nil {
		return NodeInfo{}, fmt.Errorf("metadata node at %s: %w: %w", url, ErrUnreachable, err)
	}
	return NodeInfo{ID: res.Msg.GetNode().GetId(), Cluster: res.Msg.GetCluster(), Applied: res.Msg.GetApplied()}, nil
}
