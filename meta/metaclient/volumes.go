package metaclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"dmps/client"
	"dmps/meta/metapb"
	"dmps/raid"
)

// Attach implements client.Meta. Errors: *InUseError, client.ErrNoVolume.
func (c *Client) Attach(ctx context.Context, req client.AttachRequest) (*raid.Layout, client.Lease, error) {
	res, err := call(ctx, c, attemptTimeout, "attach "+req.Volume, &metapb.AttachRequest{
		Volume: req.Volume, Holder: req.Holder, AdminUrl: req.AdminURL, Takeover: req.Takeover, Care: req.Care,
		Machine: c.host.Machine, Boot: c.host.Boot, Build: buildMessage(c.build),
	}, func(n *endpoint, ctx context.Context, r *connect.Request[metapb.AttachRequest]) (*connect.Response[metapb.AttachResponse], error) {
		return n.volumes.Attach(ctx, r)
	})
	if err != nil {
		return nil, client.Lease{}, err
	}
	l, err := layoutFrom(res.Layout, 0)
	if err != nil {
		return nil, client.Lease{}, fmt.Errorf("attach %s: %w", req.Volume, err)
	}
	c.learn(l.Cluster)
	return l, client.Lease{TTL: milliseconds(res.TtlMs), Renew: milliseconds(res.RenewMs)}, nil
}

// Renew implements client.Meta. Errors: client.ErrFenced, client.ErrNoVolume,
// ErrForeignCluster.
func (c *Client) Renew(ctx context.Context, volume raid.VolumeID, epoch raid.Epoch, r client.Report) (version uint64, err error) {
	res, err := call(ctx, c, attemptTimeout, "renew the lease", &metapb.RenewRequest{
		Volume: uint64(volume), Epoch: uint64(epoch), Report: reportTo(&r), Known: r.Known,
		Behind: each(r.Behind, func(c raid.ChunkID) uint64 { return uint64(c) }),
	}, func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RenewRequest]) (*connect.Response[metapb.RenewResponse], error) {
		return n.volumes.Renew(ctx, meant(c, r))
	})
	if err != nil {
		return 0, err
	}
	return res.Version, nil
}

// Layout implements client.Meta. Errors: client.ErrNoVolume.
func (c *Client) Layout(ctx context.Context, volume raid.VolumeID, since uint64) (*raid.Layout, error) {
	what := fmt.Sprintf("layout of volume %d", volume)
	res, err := call(ctx, c, attemptTimeout, what, &metapb.GetLayoutRequest{Volume: uint64(volume), Since: since},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.GetLayoutRequest]) (*connect.Response[metapb.GetLayoutResponse], error) {
			return n.volumes.GetLayout(ctx, meant(c, r))
		})
	if err != nil {
		return nil, err
	}
	if res.Since != 0 && res.Since != since {
		return nil, fmt.Errorf("%s: what changed after version %d was asked for, and after %d came", what, since, res.Since)
	}
	l, err := layoutFrom(res.Layout, res.Since)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

// Detach implements client.Meta. A lease that was given back already is no
// error. Errors: client.ErrFenced, client.ErrNoVolume.
func (c *Client) Detach(ctx context.Context, volume raid.VolumeID, epoch raid.Epoch) error {
	_, err := call(ctx, c, attemptTimeout, "detach", &metapb.DetachRequest{Volume: uint64(volume), Epoch: uint64(epoch)},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.DetachRequest]) (*connect.Response[metapb.DetachResponse], error) {
			return n.volumes.Detach(ctx, meant(c, r))
		})
	return err
}

// Rebuild has the members of a volume on servers that are down or suspect
// replaced now, without waiting for the grace. Errors: client.ErrNoVolume.
func (c *Client) Rebuild(ctx context.Context, volume string) (RebuildAnswer, error) {
	res, err := call(ctx, c, attemptTimeout, "rebuild "+volume, &metapb.RebuildRequest{Volume: volume},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.RebuildRequest]) (*connect.Response[metapb.RebuildResponse], error) {
			return n.volumes.Rebuild(ctx, r)
		})
	if err != nil {
		return RebuildAnswer{}, err
	}
	return RebuildAnswer{
		Volume: volumeFrom(res.Volume), Replaced: res.Replaced, Waiting: res.Waiting, Stuck: res.Stuck, StuckReason: res.StuckReason,
		Suspect: each(res.Suspect, func(s string) raid.ServerID { return raid.ServerID(s) }),
	}, nil
}

// AcceptLoss ends the remark that pages of a volume are gone of which nobody knows
// which they are, and tells how many. Errors: client.ErrNoVolume.
func (c *Client) AcceptLoss(ctx context.Context, volume string) (pages uint64, err error) {
	res, err := call(ctx, c, attemptTimeout, "accept the loss of "+volume, &metapb.AcceptLossRequest{Volume: volume},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.AcceptLossRequest]) (*connect.Response[metapb.AcceptLossResponse], error) {
			return n.volumes.AcceptLoss(ctx, r)
		})
	if err != nil {
		return 0, err
	}
	return res.Pages, nil
}

// CreateVolume makes a volume and reserves its memory. Errors: ErrExists,
// ErrNoSpace, ErrTooFewDomains, ErrInvalid.
func (c *Client) CreateVolume(ctx context.Context, spec VolumeSpec) (Volume, error) {
	if spec.TargetFill < 0 || spec.MinAck < 0 {
		return Volume{}, &refusal{message: "create: target fill and min ack are not negative", kind: ErrInvalid}
	}
	redundancy := "" // refused
	if spec.Redundancy != (raid.Geometry{}) {
		redundancy = spec.Redundancy.String()
	}
	res, err := call(ctx, c, attemptTimeout, "create volume "+spec.Name, &metapb.CreateVolumeRequest{
		Name: spec.Name, SizeBytes: spec.Size, Redundancy: redundancy, Layout: spec.Kind.String(),
		FailureDomain: spec.FailureDomain, TargetFill: uint32(spec.TargetFill), MinAck: uint32(spec.MinAck),
		ChunkBytes: spec.ChunkBytes, RequestId: rand.Text(),
	}, func(n *endpoint, ctx context.Context, r *connect.Request[metapb.CreateVolumeRequest]) (*connect.Response[metapb.CreateVolumeResponse], error) {
		return n.volumes.CreateVolume(ctx, r)
	})
	if err != nil {
		return Volume{}, err
	}
	return volumeFrom(res.Volume), nil
}

// Volumes lists all volumes by name.
func (c *Client) Volumes(ctx context.Context) ([]Volume, error) {
	res, err := call(ctx, c, attemptTimeout, "list volumes", &metapb.ListVolumesRequest{},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.ListVolumesRequest]) (*connect.Response[metapb.ListVolumesResponse], error) {
			return n.volumes.ListVolumes(ctx, r)
		})
	if err != nil {
		return nil, err
	}
	return each(res.Volumes, volumeFrom), nil
}

// Volume gives one volume and its layout, to look at: the layout's epoch is
// not a lease's. Errors: client.ErrNoVolume.
func (c *Client) Volume(ctx context.Context, name string) (Volume, *raid.Layout, error) {
	res, err := call(ctx, c, attemptTimeout, "volume "+name, &metapb.GetVolumeRequest{Name: name},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.GetVolumeRequest]) (*connect.Response[metapb.GetVolumeResponse], error) {
			return n.volumes.GetVolume(ctx, r)
		})
	if err != nil {
		return Volume{}, nil, err
	}
	l, err := layoutFrom(res.Layout, 0)
	if err != nil {
		return Volume{}, nil, fmt.Errorf("volume %s: %w", name, err)
	}
	return volumeFrom(res.Volume), l, nil
}

// DeleteVolume gives a volume's memory back. One that is attached is refused
// unless forced. Errors: *InUseError, client.ErrNoVolume.
func (c *Client) DeleteVolume(ctx context.Context, name string, force bool) error {
	tried := false // the volume may be gone because of an attempt whose answer got lost
	_, err := call(ctx, c, attemptTimeout, "delete volume "+name, &metapb.DeleteVolumeRequest{Name: name, Force: force},
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.DeleteVolumeRequest]) (*connect.Response[metapb.DeleteVolumeResponse], error) {
			res, err := n.volumes.DeleteVolume(ctx, r)
			if err == nil {
				return res, nil
			}
			reason := reasonOf(err)
			if tried && reason.GetCode() == metapb.Reason_CODE_NO_VOLUME {
				return connect.NewResponse(&metapb.DeleteVolumeResponse{}), nil
			}
			tried = tried || !neverSent(err) && (reason == nil || reason.Code == metapb.Reason_CODE_UNKNOWN_OUTCOME)
			return nil, err
		})
	return err
}

func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// layoutFrom reads a layout; since, when it is not 0, says that it has only what changed
// after that version.
func layoutFrom(p *metapb.Layout, since uint64) (*raid.Layout, error) {
	if p == nil {
		return nil, errors.New("the service sent no layout")
	}
	kind, err := raid.ParseLayoutKind(p.Layout)
	if err != nil {
		return nil, err
	}
	g, err := raid.ParseGeometry(p.Redundancy)
	if err != nil {
		return nil, err
	}
	l := &raid.Layout{
		Volume: raid.VolumeID(p.Volume), Name: p.Name, Kind: kind, Geometry: g, Pages: p.Pages,
		ChunkSlots: p.ChunkSlots, MinAck: int(p.MinAck), Epoch: raid.Epoch(p.Epoch), FirstEpoch: p.FirstEpoch,
		Cluster: p.Cluster, TargetFill: int(p.TargetFill), Version: p.Version, Unknown: p.UnknownPages,
		Groups: make([]raid.Group, len(p.Groups)), Since: since,
	}
	for i, pg := range p.Groups {
		ms := make([]raid.Member, len(pg.Members))
		for j, m := range pg.Members {
			if ms[j], err = memberFrom(m); err != nil {
				return nil, fmt.Errorf("group %d: %w", pg.Id, err)
			}
		}
		l.Groups[i] = raid.Group{ID: raid.GroupID(pg.Id), Members: ms}
		for _, pd := range pg.Pending {
			m, err := memberFrom(pd.Member)
			if err != nil || pd.Col >= uint32(len(ms)) {
				return nil, fmt.Errorf("group %d: pending member %d: %w", pg.Id, pd.Col, err)
			}
			l.Groups[i].Pending = append(l.Groups[i].Pending, raid.Pending{Col: raid.Col(pd.Col), Member: m})
		}
	}
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("layout from the service: %w", err)
	}
	return l, nil
}

func memberFrom(m *metapb.Member) (raid.Member, error) {
	state, err := memberStateFrom(m.GetState())
	return raid.Member{
		Server: raid.ServerID(m.GetServer()), Addr: m.GetAddr(), Incarnation: raid.Incarnation(m.GetIncarnation()),
		Chunk: raid.ChunkID(m.GetChunk()), State: state,
	}, err
}

func memberStateFrom(s metapb.MemberState) (raid.MemberState, error) {
	switch s {
	case metapb.MemberState_MEMBER_STATE_IN_SYNC:
		return raid.MemberInSync, nil
	case metapb.MemberState_MEMBER_STATE_LOST:
		return raid.MemberLost, nil
	case metapb.MemberState_MEMBER_STATE_REBUILDING:
		return raid.MemberRebuilding, nil
	}
	return 0, fmt.Errorf("member state %v is of a newer version", s)
}

var volumeStates = map[metapb.VolumeState]client.State{
	metapb.VolumeState_VOLUME_STATE_HEALTHY:  client.StateHealthy,
	metapb.VolumeState_VOLUME_STATE_DEGRADED: client.StateDegraded,
	metapb.VolumeState_VOLUME_STATE_FAILED:   client.StateFailed,
}

func volumeFrom(p *metapb.Volume) Volume {
	v := Volume{
		ID: raid.VolumeID(p.GetId()), Name: p.GetName(), State: volumeStates[p.GetState()],
		Redundancy: p.GetRedundancy(), Layout: p.GetLayout(), Size: p.GetSizeBytes(),
		Groups: p.GetGroups(), DegradedGroups: p.GetDegradedGroups(), RedundancyLeft: int(p.GetRedundancyLeft()),
		TargetFill: int(p.GetTargetFill()), MinAck: int(p.GetMinAck()), ChunkBytes: p.GetChunkBytes(),
		Reserved: p.GetReservedBytes(), FailureDomain: p.GetFailureDomain(), PlacedBy: p.GetPlacedBy(),
		Created: time.UnixMilli(p.GetCreatedUnixMs()).UTC(), Version: p.GetVersion(),
		Rebuilding: p.GetRebuildingMembers(), Pending: p.GetPendingMembers(), RebuildRows: p.GetRebuildRows(),
		AtRiskSince: instant(p.GetAtRiskSinceUnixMs()), StuckMembers: p.GetStuckMembers(), StuckReason: p.GetStuckReason(),
		Unknown: p.GetUnknownPages(), UnknownSince: instant(p.GetUnknownSinceUnixMs()), BereftGroups: p.GetBereftGroups(), EmptyGroups: p.GetEmptyGroups(),
	}
	if l := p.GetLease(); l != nil {
		v.Lease = &Lease{Holder: l.Holder, Epoch: raid.Epoch(l.Epoch), AdminURL: l.AdminUrl, Remaining: milliseconds(l.RemainingMs), Care: l.Care, Machine: l.Machine, Boot: l.Boot, Build: buildFrom(l.Build)}
	}
	if r := p.GetReport(); r != nil {
		v.Report = reportFrom(r)
	}
	return v
}

// instant reads a time that may be absent.
func instant(unixMs int64) time.Time {
	if unixMs == 0 {
		return time.Time{}
	}
	return time.UnixMilli(unixMs).UTC()
}

func reportTo(r *client.Report) *metapb.Report {
	p := &metapb.Report{
		DegradedGroups: uint64(max(r.DegradedGroups, 0)), DegradedRows: r.DegradedRows, LostPages: r.LostPages,
		RedundancyLeft: int32(r.RedundancyLeft), MappedPages: r.MappedPages, FilledPages: r.FilledPages,
		FreeRows: r.FreeRows, Counters: r.Counters, RebuildRows: r.RebuildRows, UnknownPages: r.Unknown,
		Rebuilt: each(r.Rebuilt, func(c raid.ChunkID) uint64 { return uint64(c) }),
		Scrub:   scrubTo(r.Scrub), LastScrub: scrubTo(r.LastScrub),
	}
	if len(r.BadSlots) > 0 {
		p.BadSlots = make(map[string]int64, len(r.BadSlots))
		for s, n := range r.BadSlots {
			p.BadSlots[string(s)] = n
		}
	}
	state := r.State
	if r.Beside != "" {
		state = r.Beside // meta knows itself which unknown pages still count
	}
	for k, s := range volumeStates {
		if s == state {
			p.State = k
		}
	}
	if r.Rebuild != nil {
		p.Rebuild = rebuildTo(r.Rebuild)
	}
	for _, m := range r.Refused {
		p.Refused = append(p.Refused, &metapb.RefusedMember{Group: uint32(m.Group), Col: uint32(m.Column), Server: string(m.Server), Chunk: uint64(m.Chunk)})
	}
	for _, s := range r.Suspect {
		p.Suspect = append(p.Suspect, string(s))
	}
	return p
}

func reportFrom(p *metapb.Report) *client.Report {
	r := &client.Report{
		State: volumeStates[p.State], DegradedGroups: int(p.DegradedGroups), DegradedRows: p.DegradedRows,
		LostPages: p.LostPages, RedundancyLeft: int(p.RedundancyLeft), MappedPages: p.MappedPages,
		FilledPages: p.FilledPages, FreeRows: p.FreeRows, Counters: p.Counters, RebuildRows: p.RebuildRows, Unknown: p.UnknownPages,
		Rebuilt: each(p.Rebuilt, func(c uint64) raid.ChunkID { return raid.ChunkID(c) }),
		Scrub:   scrubFrom(p.Scrub), LastScrub: scrubFrom(p.LastScrub),
	}
	if r.Unknown > 0 && r.State != client.StateFailed {
		r.State, r.Beside = client.StateFailed, r.State
	}
	if len(p.BadSlots) > 0 {
		r.BadSlots = make(map[raid.ServerID]int64, len(p.BadSlots))
		for s, n := range p.BadSlots {
			r.BadSlots[raid.ServerID(s)] = n
		}
	}
	for _, s := range p.Suspect {
		r.Suspect = append(r.Suspect, raid.ServerID(s))
	}
	if p.Rebuild != nil {
		r.Rebuild = rebuildFrom(p.Rebuild)
	}
	for _, m := range p.Refused {
		r.Refused = append(r.Refused, client.RefusedMember{Group: raid.GroupID(m.Group), Column: raid.Col(m.Col), Server: raid.ServerID(m.Server), Chunk: raid.ChunkID(m.Chunk)})
	}
	return r
}

func rebuildTo(r *client.RebuildReport) *metapb.RebuildProgress {
	p := &metapb.RebuildProgress{
		RowsLeft: r.RowsLeft, RowsTotal: r.RowsTotal, RowsAdded: r.RowsAdded, BytesPerSecond: r.BytesPerSecond, RemainingSeconds: r.RemainingSeconds,
		LimitBytes: r.LimitBytes, RateBytes: r.RateBytes, HeldBack: r.HeldBack, Blocked: r.Blocked, MembersLeft: uint32(r.MembersLeft),
		Members: each(r.Members, func(m client.RebuildMember) *metapb.RebuildMember {
			return &metapb.RebuildMember{
				Group: uint32(m.Group), Col: uint32(m.Column), Server: string(m.Server), Chunk: uint64(m.Chunk),
				RowsLeft: m.RowsLeft, RowsTotal: m.RowsTotal, Filling: m.Filling,
			}
		}),
	}
	if !r.AtRiskSince.IsZero() {
		p.AtRiskSinceUnixMs = r.AtRiskSince.UnixMilli()
	}
	return p
}

func rebuildFrom(p *metapb.RebuildProgress) *client.RebuildReport {
	return &client.RebuildReport{
		RowsLeft: p.RowsLeft, RowsTotal: p.RowsTotal, RowsAdded: p.RowsAdded, BytesPerSecond: p.BytesPerSecond, RemainingSeconds: p.RemainingSeconds,
		LimitBytes: p.LimitBytes, RateBytes: p.RateBytes, HeldBack: p.HeldBack, Blocked: p.Blocked, MembersLeft: int(p.MembersLeft),
		AtRiskSince: instant(p.AtRiskSinceUnixMs),
		Members: each(p.Members, func(m *metapb.RebuildMember) client.RebuildMember {
			return client.RebuildMember{
				Group: raid.GroupID(m.Group), Column: raid.Col(m.Col), Server: raid.ServerID(m.Server), Chunk: raid.ChunkID(m.Chunk),
				RowsLeft: m.RowsLeft, RowsTotal: m.RowsTotal, Filling: m.Filling,
			}
		}),
	}
}

func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}
