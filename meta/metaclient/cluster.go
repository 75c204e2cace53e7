package metaclient

import (
	"context"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
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
		Cluster: res.Cluster, Volumes: each(res.Volumes, volumeFrom),
		Servers: each(res.Servers, serverFrom), Meta: each(res.Members, nodeFrom),
	}
	if b := res.Rebalancing; b != nil {
		st.Rebalancing = &Rebalancing{Threshold: int(b.ThresholdPercent), Moved: b.Moved}
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

func nodeFrom(p *metapb.Node) Node {
	return Node{
		Name: p.GetName(), ID: p.GetId(), APIURL: p.GetApiUrl(), RaftAddr: p.GetRaftAddr(),
		Leader: p.GetLeader(), Voter: p.GetVoter(),
	}
}
