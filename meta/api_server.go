package meta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"dmps/internal/reach"
	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

type serverAPI struct{ n *Node }

func (a serverAPI) Register(ctx context.Context, req *connect.Request[metapb.RegisterRequest]) (*connect.Response[metapb.RegisterResponse], error) {
	m := req.Msg
	c := &state.Register{
		ID: raid.ServerID(m.Id), Incarnation: raid.Incarnation(m.Incarnation), Addr: m.Addr,
		Labels: m.Labels, MemoryTotal: m.MemoryTotal, Cluster: m.Cluster,
		Host: state.Host{Machine: m.Machine, Boot: m.Boot}, Folder: m.Folder, Build: buildFrom(m.Build),
	}
	if strings.Count(m.Addr, ",") >= maxAddrs {
		return nil, apiError(&state.Refusal{Code: state.Invalid, Message: fmt.Sprintf("server %.140q: more than %d addresses", m.Id, maxAddrs)})
	}
	for addr := range strings.SplitSeq(m.Addr, ",") {
		if _, at, _ := strings.Cut(addr, "://"); reach.Unspecified(at) {
			return nil, apiError(&state.Refusal{Code: state.Invalid, Message: fmt.Sprintf("server %s: nobody can dial %s: start it with --advertise", c.ID, addr)})
		}
	}
	if refusal := (&state.Command{Register: c}).Check(); refusal != nil {
		return nil, apiError(refusal)
	}
	known, cluster, err := a.n.registrable(ctx, c)
	if err == nil && !known {
		if err = a.n.findsServer(ctx, c, cluster); err == nil { // which takes a while
			_, _, err = a.n.registrable(ctx, c)
		}
	}
	if err == nil {
		_, err = a.n.propose(ctx, &state.Command{Register: c})
	}
	if refusal := (*state.Refusal)(nil); errors.As(err, &refusal) && refusal.Code == state.IDAwaited {
		err = cmp.Or(a.n.ask(ctx, func(r *reign, _ *state.State) error {
			if b, ok := r.mu.beats[c.ID]; ok {
				b.followed = true
				r.mu.beats[c.ID] = b
			}
			return nil
		}), err)
	}
	if err != nil {
		return nil, apiError(err)
	}
	res := &metapb.RegisterResponse{}
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		if sv := s.Servers[c.ID]; sv != nil && sv.Incarnation == c.Incarnation {
			b := r.mu.beats[c.ID]
			r.mu.beats[c.ID] = beat{incarnation: c.Incarnation, at: time.Now(), used: b.used, silent: b.incarnation != c.Incarnation || b.silent}
		}
		res.Cluster = s.Cluster
		return nil
	})
	return answer(res, err)
}

// registrable fills in what this leader heard of the process that has the id of a server, and
// refuses one that may not have it. known: it is where this very process was found.
func (n *Node) registrable(ctx context.Context, c *state.Register) (known bool, cluster string, err error) {
	err = n.ask(ctx, func(r *reign, s *state.State) error {
		b, ok := r.mu.beats[c.ID]
		other := ok && b.incarnation != c.Incarnation
		c.Heard = other && time.Since(b.at) < n.cfg.SuspectAfter
		c.Ghost = other && b.silent && !c.Heard
		sv := s.Servers[c.ID]
		known, cluster = sv != nil && sv.Incarnation == c.Incarnation && sv.Addr == c.Addr, s.Cluster
		if refusal := s.Registrable(c); refusal != nil {
			return refusal
		}
		return nil
	})
	return known, cluster, err
}

// memoryChange is when a server's new size is replicated: 1 in that many.
const memoryChange = 100

func (a serverAPI) Heartbeat(ctx context.Context, req *connect.Request[metapb.HeartbeatRequest]) (*connect.Response[metapb.HeartbeatResponse], error) {
	m := req.Msg
	res := &metapb.HeartbeatResponse{}
	var changes []state.Command
	r, _, err := a.n.leading(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	r.mu.Lock()
	same := r.calmLocked(m, time.Now())
	r.mu.Unlock()
	if same != nil {
		return connect.NewResponse(same), nil
	}
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		changes = r.beatLocked(s, m, res, a.n.cfg)
		return nil
	})
	for i := range changes {
		if err != nil {
			break
		}
		_, err = a.n.propose(ctx, &changes[i])
		if refusal := (*state.Refusal)(nil); errors.As(err, &refusal) && refusal.Code == state.NotFound {
			err, res.Unknown = nil, true // replaced or removed this moment
		}
	}
	return answer(res, err)
}

func (a serverAPI) ListUnknown(ctx context.Context, req *connect.Request[metapb.ListUnknownRequest]) (*connect.Response[metapb.ListUnknownResponse], error) {
	res := &metapb.ListUnknownResponse{}
	err := a.n.ask(ctx, func(r *reign, s *state.State) error {
		id := raid.ServerID(req.Msg.Id)
		if s.Servers[id] == nil {
			return &state.Refusal{Code: state.NotFound, Message: "no server " + req.Msg.Id}
		}
		res.Chunks = r.unknownLocked(s, id)
		return nil
	})
	return answer(res, err)
}

func (a serverAPI) PurgeUnknown(ctx context.Context, req *connect.Request[metapb.PurgeUnknownRequest]) (*connect.Response[metapb.PurgeUnknownResponse], error) {
	var c *state.Purge
	err := a.n.ask(ctx, func(r *reign, s *state.State) error {
		sv := s.Servers[raid.ServerID(req.Msg.Id)]
		if sv == nil {
			return &state.Refusal{Code: state.NotFound, Message: "no server " + req.Msg.Id}
		}
		if chunks := r.mu.unknown[sv.ID]; len(chunks) > 0 {
			c = &state.Purge{ID: sv.ID, Incarnation: sv.Incarnation, Chunks: chunks}
		}
		return nil
	})
	if err != nil || c == nil {
		return answer(&metapb.PurgeUnknownResponse{}, err)
	}
	n, err := a.n.propose(ctx, &state.Command{Purge: c})
	if err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&metapb.PurgeUnknownResponse{Chunks: n.(uint64)}), nil
}

func resized(was, is uint64) bool {
	d := max(was, is) - min(was, is)
	return is != 0 && d > was/memoryChange
}

func (a serverAPI) ListServers(ctx context.Context, _ *connect.Request[metapb.ListServersRequest]) (*connect.Response[metapb.ListServersResponse], error) {
	res := &metapb.ListServersResponse{}
	err := a.n.ask(ctx, func(r *reign, s *state.State) error {
		res.Servers = r.serversLocked(s)
		return nil
	})
	return answer(res, err)
}

func (a serverAPI) DrainServer(ctx context.Context, req *connect.Request[metapb.DrainServerRequest]) (*connect.Response[metapb.DrainServerResponse], error) {
	return answer(&metapb.DrainServerResponse{}, a.n.drain(ctx, &state.Drain{ID: raid.ServerID(req.Msg.Id)}))
}

func (a serverAPI) UndrainServer(ctx context.Context, req *connect.Request[metapb.UndrainServerRequest]) (*connect.Response[metapb.UndrainServerResponse], error) {
	return answer(&metapb.UndrainServerResponse{}, a.n.drain(ctx, &state.Drain{ID: raid.ServerID(req.Msg.Id), Off: true}))
}

func (n *Node) drain(ctx context.Context, c *state.Drain) error {
	if _, _, err := n.leading(ctx); err != nil {
		return err
	}
	_, err := n.propose(ctx, &state.Command{Drain: c})
	return err
}

func (a serverAPI) Rebalance(ctx context.Context, req *connect.Request[metapb.RebalanceRequest]) (*connect.Response[metapb.RebalanceResponse], error) {
	if _, _, err := a.n.leading(ctx); err != nil {
		return nil, apiError(err)
	}
	c := &state.Rebalance{Threshold: int(min(req.Msg.ThresholdPercent, 101)), Off: req.Msg.Stop}
	_, err := a.n.propose(ctx, &state.Command{Rebalance: c})
	return answer(&metapb.RebalanceResponse{}, err)
}

func (a serverAPI) RemoveServer(ctx context.Context, req *connect.Request[metapb.RemoveServerRequest]) (*connect.Response[metapb.RemoveServerResponse], error) {
	r, _, err := a.n.leading(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	id := raid.ServerID(req.Msg.Id)
	if req.Msg.DryRun {
		res := &metapb.RemoveServerResponse{}
		err := a.n.ask(ctx, func(_ *reign, s *state.State) error {
			if s.Servers[id] == nil {
				return &state.Refusal{Code: state.NotFound, Message: "no server " + req.Msg.Id}
			}
			res.Losses = lossMessages(s.Losses(id))
			for _, l := range res.Losses {
				res.LostMembers += l.Members
			}
			return nil
		})
		return answer(res, err)
	}
	v, err := a.n.propose(ctx, &state.Command{RemoveServer: &state.RemoveServer{ID: id, Force: req.Msg.Force}})
	if err != nil {
		return nil, apiError(err)
	}
	r.mu.Lock()
	delete(r.mu.beats, id)
	r.mu.Unlock()
	removed := v.(state.Removed)
	return answer(&metapb.RemoveServerResponse{LostMembers: uint64(removed.Members), Losses: lossMessages(removed.Losses)}, nil)
}

func lossMessages(losses []state.Loss) []*metapb.Loss {
	var out []*metapb.Loss
	for _, l := range losses {
		out = append(out, &metapb.Loss{Volume: l.Volume, Members: l.Members, GroupsLost: l.GroupsLost, GroupsAway: l.GroupsAway, RedundancyLeft: int32(l.RedundancyLeft)})
	}
	return out
}
