package metaclient

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"dmps/internal/jitter"
	"dmps/meta/metapb"
	"dmps/raid"
	"dmps/server"
)

// idRetry is how often a server that comes back elsewhere asks whether meta has given
// up its older life.
const idRetry = 250 * time.Millisecond

// Register implements server.Registrar. While the id is another server's, or that of
// an older life elsewhere that is not given up yet, it tries again, for the Client's patience.
// Errors: ErrIDInUse, ErrIDAwaited, ErrForeignCluster, ErrInvalid.
func (c *Client) Register(ctx context.Context, info server.Info) error {
	patience := time.NewTimer(c.patience)
	defer patience.Stop()
	for {
		_, err := call(ctx, c, attemptTimeout, "register server "+string(info.ID), &metapb.RegisterRequest{
			Id: string(info.ID), Incarnation: uint64(info.Incarnation), Addr: info.Addr,
			Labels: info.Labels, MemoryTotal: info.MemoryTotal, Cluster: info.Cluster,
			Machine: c.host.Machine, Boot: c.host.Boot, Folder: c.host.Folder, Build: buildMessage(c.build),
		}, func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RegisterRequest]) (*connect.Response[metapb.RegisterResponse], error) {
			return n.servers.Register(ctx, meant(c, r))
		})
		if !errors.Is(err, ErrIDInUse) && !errors.Is(err, ErrIDAwaited) {
			return err
		}
		wait := time.NewTimer(jitter.Around(idRetry))
		select {
		case <-wait.C:
		case <-patience.C:
			wait.Stop()
			return err
		case <-ctx.Done():
			wait.Stop()
			return err
		}
	}
}

// Heartbeat implements server.Registrar.
func (c *Client) Heartbeat(ctx context.Context, hb server.Heartbeat) (server.HeartbeatReply, error) {
	res, err := call(ctx, c, beatTimeout, "heartbeat of server "+string(hb.ID), &metapb.HeartbeatRequest{
		Id: string(hb.ID), Incarnation: uint64(hb.Incarnation), MemoryTotal: hb.MemoryTotal, MemoryUsed: hb.MemoryUsed,
		Chunks: each(hb.Chunks, func(c raid.ChunkID) uint64 { return uint64(c) }), Short: hb.Short, WantedFreeBytes: hb.WantedFree,
		Owned:        each(hb.Owned, func(v raid.VolumeID) uint64 { return uint64(v) }),
		NotAccepting: hb.NotAccepting, ChunksHash: hb.ChunksHash, ChunksUnchanged: hb.ChunksUnchanged,
		About: each(hb.About, func(a server.ChunkAbout) *metapb.ChunkAbout {
			return &metapb.ChunkAbout{Chunk: uint64(a.Chunk), Volume: uint64(a.Volume), Group: uint32(a.Group), Bytes: a.Bytes, MadeUnixMs: a.Made.UnixMilli()}
		}),
	}, func(n *endpoint, ctx context.Context, r *connect.Request[metapb.HeartbeatRequest]) (*connect.Response[metapb.HeartbeatResponse], error) {
		return n.servers.Heartbeat(ctx, meant(c, r))
	})
	if err != nil {
		return server.HeartbeatReply{}, err
	}
	c.learn(res.Cluster)
	return server.HeartbeatReply{
		Unknown: res.Unknown, Cluster: res.Cluster, ListChunks: res.ListChunks,
		Drop:     each(res.Drop, func(c uint64) raid.ChunkID { return raid.ChunkID(c) }),
		Describe: each(res.Describe, func(c uint64) raid.ChunkID { return raid.ChunkID(c) }),
		Care: each(res.Care, func(o *metapb.CareOffer) server.CareOffer {
			return server.CareOffer{Volume: o.GetVolume(), Pages: o.GetPages()}
		}),
	}, nil
}

// Servers lists all memory servers by id.
func (c *Client) Servers(ctx context.Context) ([]Server, error) {
	res, err := call(ctx, c, attemptTimeout, "list servers", &metapb.ListServersRequest{},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.ListServersRequest]) (*connect.Response[metapb.ListServersResponse], error) {
			return n.servers.ListServers(ctx, r)
		})
	if err != nil {
		return nil, err
	}
	return each(res.Servers, serverFrom), nil
}

// DrainServer has every member of a server moved to others, while it still
// serves, and no new chunks placed there. It returns at once: the server is
// drained when it holds no chunks. Draining again is no error. Errors:
// ErrNotFound.
func (c *Client) DrainServer(ctx context.Context, id raid.ServerID) error {
	_, err := call(ctx, c, attemptTimeout, "drain server "+string(id), &metapb.DrainServerRequest{Id: string(id)},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.DrainServerRequest]) (*connect.Response[metapb.DrainServerResponse], error) {
			return n.servers.DrainServer(ctx, r)
		})
	return err
}

// UndrainServer ends the draining of a server: moves that are not done are
// given up. Errors: ErrNotFound.
func (c *Client) UndrainServer(ctx context.Context, id raid.ServerID) error {
	_, err := call(ctx, c, attemptTimeout, "undrain server "+string(id), &metapb.UndrainServerRequest{Id: string(id)},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.UndrainServerRequest]) (*connect.Response[metapb.UndrainServerResponse], error) {
			return n.servers.UndrainServer(ctx, r)
		})
	return err
}

// Rebalance has members moved from the fullest servers to the emptiest, until
// they differ by at most threshold percent of their memory (0: 5). It returns
// at once; Status.Rebalancing and the events tell how it goes. Errors:
// ErrInvalid.
func (c *Client) Rebalance(ctx context.Context, threshold int) error {
	if threshold < 0 || threshold > 100 {
		return &refusal{message: "rebalance: the threshold must be 1 to 100 percent", kind: ErrInvalid}
	}
	return c.rebalance(ctx, &metapb.RebalanceRequest{ThresholdPercent: uint32(threshold)})
}

// StopRebalance ends that; moves that began go on.
func (c *Client) StopRebalance(ctx context.Context) error {
	return c.rebalance(ctx, &metapb.RebalanceRequest{Stop: true})
}

func (c *Client) rebalance(ctx context.Context, req *metapb.RebalanceRequest) error {
	_, err := call(ctx, c, attemptTimeout, "rebalance", req,
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RebalanceRequest]) (*connect.Response[metapb.RebalanceResponse], error) {
			return n.servers.Rebalance(ctx, r)
		})
	return err
}

// Losses says what the volumes would lose if a server did not come back.
// Errors: ErrNotFound.
func (c *Client) Losses(ctx context.Context, id raid.ServerID) ([]Loss, error) {
	res, err := call(ctx, c, attemptTimeout, "losses with server "+string(id), &metapb.RemoveServerRequest{Id: string(id), DryRun: true},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RemoveServerRequest]) (*connect.Response[metapb.RemoveServerResponse], error) {
			return n.servers.RemoveServer(ctx, r)
		})
	if err != nil {
		return nil, err
	}
	return each(res.Losses, func(p *metapb.Loss) Loss {
		return Loss{Volume: p.GetVolume(), Members: p.GetMembers(), GroupsLost: p.GetGroupsLost(), GroupsAway: p.GetGroupsAway(), RedundancyLeft: int(p.GetRedundancyLeft())}
	}), nil
}

// RemoveServer forgets a server. One that holds chunks is refused unless
// forced; forced, that many members of groups are lost. The refusal, and
// Losses, say what that means. Errors: ErrNotFound, ErrHoldsChunks, ErrIDInUse
// while it lives.
func (c *Client) RemoveServer(ctx context.Context, id raid.ServerID, force bool) (lostMembers uint64, err error) {
	res, err := call(ctx, c, attemptTimeout, "remove server "+string(id), &metapb.RemoveServerRequest{Id: string(id), Force: force},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RemoveServerRequest]) (*connect.Response[metapb.RemoveServerResponse], error) {
			return n.servers.RemoveServer(ctx, r)
		})
	if err != nil {
		return 0, err
	}
	return res.LostMembers, nil
}

// UnknownChunks lists the chunks that a server holds and that the metadata did not give
// out, by volume and group. Errors: ErrNotFound.
func (c *Client) UnknownChunks(ctx context.Context, id raid.ServerID) ([]UnknownChunk, error) {
	res, err := call(ctx, c, attemptTimeout, "unknown chunks of server "+string(id), &metapb.ListUnknownRequest{Id: string(id)},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.ListUnknownRequest]) (*connect.Response[metapb.ListUnknownResponse], error) {
			return n.servers.ListUnknown(ctx, r)
		})
	if err != nil {
		return nil, err
	}
	return each(res.Chunks, func(p *metapb.UnknownChunk) UnknownChunk {
		a := p.GetAbout()
		return UnknownChunk{Chunk: raid.ChunkID(a.GetChunk()), Volume: raid.VolumeID(a.GetVolume()), Name: p.GetVolume(), Group: raid.GroupID(a.GetGroup()), Bytes: a.GetBytes(), Made: instant(a.GetMadeUnixMs())}
	}), nil
}

// PurgeUnknown has a server give back the chunks that it holds and that the metadata
// did not give out (Server.UnknownChunks), with its next heartbeats, and tells how many.
// Errors: ErrNotFound.
func (c *Client) PurgeUnknown(ctx context.Context, id raid.ServerID) (chunks uint64, err error) {
	res, err := call(ctx, c, attemptTimeout, "purge server "+string(id), &metapb.PurgeUnknownRequest{Id: string(id)},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.PurgeUnknownRequest]) (*connect.Response[metapb.PurgeUnknownResponse], error) {
			return n.servers.PurgeUnknown(ctx, r)
		})
	if err != nil {
		return 0, err
	}
	return res.Chunks, nil
}

var serverStates = map[metapb.ServerState]string{
	metapb.ServerState_SERVER_STATE_UP:       ServerUp,
	metapb.ServerState_SERVER_STATE_SUSPECT:  ServerSuspect,
	metapb.ServerState_SERVER_STATE_DOWN:     ServerDown,
	metapb.ServerState_SERVER_STATE_DRAINING: ServerDraining,
	metapb.ServerState_SERVER_STATE_SHORT:    ServerShort,
}

func serverFrom(p *metapb.Server) Server {
	return Server{
		ID: raid.ServerID(p.GetId()), Incarnation: raid.Incarnation(p.GetIncarnation()), Addr: p.GetAddr(),
		Labels: p.GetLabels(), State: serverStates[p.GetState()], MemoryTotal: p.GetMemoryTotal(),
		MemoryUsed: p.GetMemoryUsed(), MemoryReserved: p.GetMemoryReserved(), Chunks: p.GetChunks(),
		Draining: p.GetDraining(), AwaySince: instant(p.GetAwayUnixMs()), UnknownChunks: p.GetUnknownChunks(), UnknownBytes: p.GetUnknownBytes(),
		Machine: p.GetMachine(), Boot: p.GetBoot(), Build: buildFrom(p.GetBuild()), HeldUntil: instant(p.GetHeldUntilUnixMs()),
	}
}
