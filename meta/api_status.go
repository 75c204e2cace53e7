package meta

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

type statusAPI struct{ n *Node }

func (a statusAPI) GetStatus(ctx context.Context, _ *connect.Request[metapb.GetStatusRequest]) (*connect.Response[metapb.GetStatusResponse], error) {
	res := &metapb.GetStatusResponse{}
	members, err := a.n.members(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	res.Members = members
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		res.Cluster, res.Level = s.Cluster, uint32(s.Level)
		res.Volumes = r.volumesLocked(s)
		res.Servers = r.serversLocked(s)
		res.Unreachable = r.unfoundLocked(time.Now())
		if b := s.Balance; b != nil {
			res.Rebalancing = &metapb.Rebalancing{ThresholdPercent: uint32(b.Threshold), Moved: b.Moved}
		}
		c := s.Copysets()
		res.Copysets = &metapb.Copysets{
			Sets: uint64(c.Sets), ByRepairs: uint64(c.Repairs), MembersAway: uint64(c.Away),
			Failures: uint64(c.Failures), LossProbability: c.Loss,
		}
		return nil
	})
	return answer(res, err)
}

// answer is what a handler returns.
func answer[T any](res *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(res), nil
}

// ask calls f with the leader's knowledge and the state, both locked: f copies
// what it keeps. The state is locked first, here and elsewhere: a command may hold it
// for long, and heartbeats that say nothing new need only the other.
func (n *Node) ask(ctx context.Context, f func(*reign, *state.State) error) error {
	r, _, err := n.leading(ctx)
	if err != nil {
		return err
	}
	var answer error
	err = n.disks.state.View(func(s *state.State) {
		r.mu.Lock()
		defer r.mu.Unlock()
		answer = f(r, s)
	})
	return cmp.Or(err, answer)
}

func (r *reign) volumesLocked(s *state.State) []*metapb.Volume {
	now := time.Now()
	var out []*metapb.Volume
	for _, v := range s.SortedVolumes() {
		out = append(out, r.volumeMessageLocked(s, v, now))
	}
	slices.SortFunc(out, func(a, b *metapb.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (r *reign) serversLocked(s *state.State) []*metapb.Server {
	var out []*metapb.Server
	for _, sv := range s.SortedServers() {
		out = append(out, r.serverMessageLocked(sv))
	}
	return out
}
