package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// renewals is how many times a lease is renewed in its TTL, so that one lost
// renewal, or two, do not end it.
const renewals = 3

type volumeAPI struct{ n *Node }

func (a volumeAPI) CreateVolume(ctx context.Context, req *connect.Request[metapb.CreateVolumeRequest]) (*connect.Response[metapb.CreateVolumeResponse], error) {
	c, err := createCommand(req.Msg)
	if err != nil {
		return nil, withReason(err, &metapb.Reason{Code: metapb.Reason_CODE_INVALID})
	}
	if _, _, err := a.n.leading(ctx); err != nil {
		return nil, apiError(err)
	}
	v, err := a.n.propose(ctx, &state.Command{CreateVolume: c})
	if err != nil {
		return nil, apiError(err)
	}
	res := &metapb.CreateVolumeResponse{}
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		volume := s.Volumes[v.(raid.VolumeID)]
		if volume == nil {
			return &state.Refusal{Code: state.NoVolume, Message: fmt.Sprintf("volume %s was deleted at once", c.Name)}
		}
		res.Volume = r.volumeMessageLocked(s, volume, time.Now())
		return nil
	})
	return answer(res, err)
}

// createCommand reads a request and adds what is not for the state to decide.
func createCommand(m *metapb.CreateVolumeRequest) (*state.CreateVolume, error) {
	c := &state.CreateVolume{
		Name: m.Name, Request: m.RequestId,
		TargetFill: int(m.TargetFill), MinAck: int(m.MinAck),
		Seed: rand.Uint64(), Now: time.Now().UnixMilli(),
	}
	const page = raid.PageSize
	c.Pages = m.SizeBytes / page
	if m.SizeBytes%page != 0 {
		c.Pages++
	}
	slots := m.ChunkBytes / page
	if m.ChunkBytes%page != 0 || slots > 1<<31 {
		return nil, fmt.Errorf("volume %s: chunks of %d bytes: must be a power of two from 1 MiB to 4 GiB", m.Name, m.ChunkBytes)
	}
	c.ChunkSlots = uint32(slots)
	if m.Redundancy == "" {
		return nil, fmt.Errorf("volume %s: say which redundancy: rs:4+2, mirror:2, or none, with which each server that is lost takes a part of the volume", m.Name)
	}
	var err error
	if c.Geometry, err = raid.ParseGeometry(m.Redundancy); err != nil {
		return nil, err
	}
	if m.Layout != "" {
		if c.Kind, err = raid.ParseLayoutKind(m.Layout); err != nil {
			return nil, err
		}
	}
	c.Domain, err = state.ParseLevel(m.FailureDomain)
	return c, err
}

func (a volumeAPI) ListVolumes(ctx context.Context, _ *connect.Request[metapb.ListVolumesRequest]) (*connect.Response[metapb.ListVolumesResponse], error) {
	res := &metapb.ListVolumesResponse{}
	err := a.n.ask(ctx, func(r *reign, s *state.State) error {
		res.Volumes = r.volumesLocked(s)
		return nil
	})
	return answer(res, err)
}

func (a volumeAPI) GetVolume(ctx context.Context, req *connect.Request[metapb.GetVolumeRequest]) (*connect.Response[metapb.GetVolumeResponse], error) {
	res := &metapb.GetVolumeResponse{}
	err := a.n.ask(ctx, func(r *reign, s *state.State) error {
		v, ok := s.VolumeByName(req.Msg.Name)
		if !ok {
			return &state.Refusal{Code: state.NoVolume, Message: fmt.Sprintf("no volume %q", req.Msg.Name)}
		}
		res.Volume = r.volumeMessageLocked(s, v, time.Now())
		res.Layout = layoutMessage(s.Layout(v, v.Epoch, v.Unopened))
		return nil
	})
	return answer(res, err)
}

func (a volumeAPI) DeleteVolume(ctx context.Context, req *connect.Request[metapb.DeleteVolumeRequest]) (*connect.Response[metapb.DeleteVolumeResponse], error) {
	c := &state.DeleteVolume{Name: req.Msg.Name, Force: req.Msg.Force}
	left, err := a.n.leaseLeft(ctx, c.Name)
	if err != nil {
		return nil, apiError(err)
	}
	c.Expired = left.expired
	_, err = a.n.propose(ctx, &state.Command{DeleteVolume: c})
	if refusal := (*state.Refusal)(nil); errors.As(err, &refusal) && refusal.Code == state.InUse {
		return nil, inUseFor(refusal, left, "delete it by force (--force)")
	}
	return answer(&metapb.DeleteVolumeResponse{}, err)
}

// leaseStanding is how the lease of a volume stands.
type leaseStanding struct {
	left    time.Duration // until it runs out
	pages   bool          // it has, but servers have sessions of its client, which merely does not reach this service
	expired raid.Epoch    // of a lease that ran out and that nobody uses any more; 0: none
}

func (n *Node) leaseLeft(ctx context.Context, name string) (l leaseStanding, err error) {
	err = n.ask(ctx, func(r *reign, s *state.State) error {
		v, ok := s.VolumeByName(name)
		if !ok || v.Lease == nil {
			return nil // the command will say so
		}
		end := r.leaseEndLocked(v, n.cfg)
		l.left = max(time.Until(end.at), 0)
		l.pages = l.left == 0 && r.pagesLocked(v, time.Now())
		if l.left == 0 && !l.pages {
			l.expired = end.epoch
		}
		return nil
	})
	return l, err
}

// leaseEndLocked is when the lease of a volume that has one runs out.
func (r *reign) leaseEndLocked(v *state.Volume, cfg Config) leaseEnd {
	end, ok := r.mu.leases[v.ID]
	if !ok || end.epoch != v.Lease.Epoch {
		// Given out this moment, by a call that did not come to note its end.
		end = leaseEnd{epoch: v.Lease.Epoch, at: time.Now().Add(cfg.LeaseTTL)}
		r.mu.leases[v.ID] = end
	}
	return end
}

func (a volumeAPI) Attach(ctx context.Context, req *connect.Request[metapb.AttachRequest]) (*connect.Response[metapb.AttachResponse], error) {
	m := req.Msg
	c := &state.Attach{Name: m.Volume, Holder: m.Holder, Admin: m.AdminUrl, Takeover: m.Takeover, Care: m.Care, Host: state.Host{Machine: m.Machine, Boot: m.Boot}, Build: buildFrom(m.Build)}
	left, err := a.n.leaseLeft(ctx, c.Name)
	if err != nil {
		return nil, apiError(err)
	}
	c.Expired = left.expired
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		if v, ok := s.VolumeByName(c.Name); ok && c.Care {
			if why := r.notRipeLocked(s, v, time.Now(), a.n.cfg); why != "" {
				return refused(metapb.Reason_CODE_IN_USE, "volume %s: %s", c.Name, why)
			}
		}
		if v, ok := s.VolumeByName(c.Name); ok {
			if wait := s.Unverified(v); len(wait) > 0 {
				return refused(metapb.Reason_CODE_NO_QUORUM, "volume %s: the metadata was restored, and servers %v have not said yet what they hold: try again in some seconds", c.Name, wait)
			}
		}
		return nil
	})
	if err != nil {
		return nil, apiError(err)
	}
	v, err := a.n.propose(ctx, &state.Command{Attach: c})
	if err != nil {
		if refusal := (*state.Refusal)(nil); errors.As(err, &refusal) && refusal.Code == state.InUse {
			return nil, inUseFor(refusal, left, "take it over by name (--takeover)")
		}
		return nil, apiError(err)
	}
	at := v.(state.Attached)
	ttl := a.n.cfg.LeaseTTL
	res := &metapb.AttachResponse{TtlMs: ttl.Milliseconds(), RenewMs: (ttl / renewals).Milliseconds()}
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		// The lease may have been taken over already, the volume deleted.
		if refusal := s.Renewable(at.Volume, at.Epoch); refusal != nil {
			return refusal
		}
		r.mu.leases[at.Volume] = leaseEnd{epoch: at.Epoch, at: time.Now().Add(ttl)}
		if c.Care {
			r.mu.care.begun(s.Volumes[at.Volume], time.Now())
		}
		res.Layout = layoutMessage(s.Layout(s.Volumes[at.Volume], at.Epoch, at.First))
		return nil
	})
	return answer(res, err)
}

func (a volumeAPI) Renew(ctx context.Context, req *connect.Request[metapb.RenewRequest]) (*connect.Response[metapb.RenewResponse], error) {
	_, p, err := a.n.leading(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	// A leader that was cut off must not extend what its successor gave away.
	if err := a.n.await(ctx, p.raft.VerifyLeader()); err != nil {
		return nil, apiError(errNoQuorum)
	}
	volume, epoch := raid.VolumeID(req.Msg.Volume), raid.Epoch(req.Msg.Epoch)
	var behind *state.Behind
	if len(req.Msg.Behind) > 0 {
		behind = &state.Behind{Volume: volume, Epoch: epoch}
		for _, c := range req.Msg.Behind {
			behind.Chunks = append(behind.Chunks, raid.ChunkID(c))
		}
	}
	var change *state.PutReport
	var rebuilt *state.Rebuilt
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		if refusal := s.Renewable(volume, epoch); refusal != nil {
			return refusal
		}
		r.mu.leases[volume] = leaseEnd{epoch: epoch, at: time.Now().Add(a.n.cfg.LeaseTTL)}
		if req.Msg.Report == nil {
			return nil
		}
		fresh := proto.CloneOf(req.Msg.Report)
		fresh.UnknownPages = s.Volumes[volume].StillUnknown(fresh.UnknownPages, req.Msg.Known)
		now, err := reportState(fresh)
		if err != nil {
			return err
		}
		if chunks := s.Filling(volume, req.Msg.Report.Rebuilt); len(chunks) > 0 {
			rebuilt = &state.Rebuilt{Volume: volume, Epoch: epoch, Chunks: chunks, Known: req.Msg.Known}
		}
		r.hearLocked(s, volume, epoch, fresh, time.Now())
		if last := s.Volumes[volume].Report; last == nil || s.Volumes[volume].Unopened || differs(last, &now) {
			change = &state.PutReport{Volume: volume, Epoch: epoch, Report: now, Known: req.Msg.Known}
		}
		return nil
	})
	if err == nil && change != nil {
		_, err = a.n.propose(ctx, &state.Command{PutReport: change})
	}
	// Who holds everything first: the holder said so before it knew of those that are
	// noted now, and relies on it when it has them noted.
	if err == nil && rebuilt != nil {
		_, err = a.n.propose(ctx, &state.Command{Rebuilt: rebuilt})
	}
	if err == nil && behind != nil {
		_, err = a.n.propose(ctx, &state.Command{Behind: behind})
	}
	if err != nil {
		return nil, apiError(err)
	}
	res := &metapb.RenewResponse{}
	err = a.n.ask(ctx, func(_ *reign, s *state.State) error {
		if refusal := s.Renewable(volume, epoch); refusal != nil {
			return refusal
		}
		res.Version = s.Volumes[volume].Version
		return nil
	})
	return answer(res, err)
}

func (a volumeAPI) GetLayout(ctx context.Context, req *connect.Request[metapb.GetLayoutRequest]) (*connect.Response[metapb.GetLayoutResponse], error) {
	if _, _, err := a.n.leading(ctx); err != nil {
		return nil, apiError(err)
	}
	var l *raid.Layout
	err := a.n.disks.state.View(func(s *state.State) {
		if v := s.Volumes[raid.VolumeID(req.Msg.Volume)]; v != nil {
			l = s.LayoutSince(v, v.LastLease, req.Msg.Since)
		}
	})
	switch {
	case err != nil:
		return nil, apiError(err)
	case l == nil:
		return nil, apiError(&state.Refusal{Code: state.NoVolume, Message: fmt.Sprintf("volume %d was deleted", req.Msg.Volume)})
	}
	return connect.NewResponse(&metapb.GetLayoutResponse{Layout: layoutMessage(l), Since: l.Since}), nil
}

// differs reports whether a new leader must know the new report: counters of
// rows move all the time, and only whether there are any matters.
func differs(last, now *state.Report) bool {
	if now.LastScrub != nil && (last.LastScrub == nil || last.LastScrub.Finished != now.LastScrub.Finished) {
		return true
	}
	return last.State != now.State || last.DegradedGroups != now.DegradedGroups || last.RedundancyLeft != now.RedundancyLeft ||
		last.LostPages != now.LostPages || last.Unknown != now.Unknown || (last.RebuildRows == 0) != (now.RebuildRows == 0) || (last.DegradedRows == 0) != (now.DegradedRows == 0)
}

// Rebuild has members replaced now. It takes the plan apart from the ordinary
// one: what is not replaced is told to the caller, and not noted as stuck.
func (a volumeAPI) Rebuild(ctx context.Context, req *connect.Request[metapb.RebuildRequest]) (*connect.Response[metapb.RebuildResponse], error) {
	res := &metapb.RebuildResponse{}
	c := &state.Heal{Limit: healBatch, Rebuilding: a.n.cfg.MaxRebuilding, Moves: a.n.cfg.MaxMoves}
	var plan state.Healed
	for more := true; more; {
		var suspects []raid.ServerID
		err := a.n.ask(ctx, func(r *reign, s *state.State) error {
			v, ok := s.VolumeByName(req.Msg.Volume)
			if !ok {
				return &state.Refusal{Code: state.NoVolume, Message: fmt.Sprintf("no volume %q", req.Msg.Volume)}
			}
			c.Volume, suspects = v.ID, s.Suspects(v)
			c.Full = r.fullLocked(s, time.Now())
			plan = s.PlanHeal(c)
			return nil
		})
		if err != nil {
			return nil, apiError(err)
		}
		if plan.Steps == 0 {
			break
		}
		done, err := a.n.propose(ctx, &state.Command{Heal: c})
		if err != nil {
			return nil, apiError(err)
		}
		plan = done.(state.Healed)
		res.Replaced += uint64(plan.Steps)
		more = plan.More
		for _, id := range suspects {
			if !slices.Contains(res.Suspect, string(id)) {
				res.Suspect = append(res.Suspect, string(id))
			}
		}
	}
	res.Waiting = uint64(plan.Wait)
	if plan.Stuck != nil {
		res.Stuck, res.StuckReason = plan.Stuck.Members, plan.Stuck.Reason
	}
	if res.Replaced > 0 {
		a.n.log.Info("members of a volume are replaced because somebody asked for it", "volume", req.Msg.Volume, "members", res.Replaced)
	}
	err := a.n.ask(ctx, func(r *reign, s *state.State) error {
		v := s.Volumes[c.Volume]
		if v == nil {
			return &state.Refusal{Code: state.NoVolume, Message: fmt.Sprintf("volume %q was deleted", req.Msg.Volume)}
		}
		res.Volume = r.volumeMessageLocked(s, v, time.Now())
		return nil
	})
	return answer(res, err)
}

// AcceptLoss ends the remark that pages are gone of which nobody knows which.
func (a volumeAPI) AcceptLoss(ctx context.Context, req *connect.Request[metapb.AcceptLossRequest]) (*connect.Response[metapb.AcceptLossResponse], error) {
	if _, _, err := a.n.leading(ctx); err != nil {
		return nil, apiError(err)
	}
	n, err := a.n.propose(ctx, &state.Command{AcceptLoss: &state.AcceptLoss{Name: req.Msg.Volume}})
	if err != nil {
		return nil, apiError(err)
	}
	err = a.n.ask(ctx, func(r *reign, s *state.State) error {
		if v, ok := s.VolumeByName(req.Msg.Volume); ok {
			delete(r.mu.reports, v.ID) // what its client said last is not so any more; it says it anew
		}
		return nil
	})
	return answer(&metapb.AcceptLossResponse{Pages: n.(uint64)}, err)
}

func (a volumeAPI) Detach(ctx context.Context, req *connect.Request[metapb.DetachRequest]) (*connect.Response[metapb.DetachResponse], error) {
	if _, _, err := a.n.leading(ctx); err != nil {
		return nil, apiError(err)
	}
	_, err := a.n.propose(ctx, &state.Command{Detach: &state.Detach{
		Volume: raid.VolumeID(req.Msg.Volume), Epoch: raid.Epoch(req.Msg.Epoch),
	}})
	return answer(&metapb.DetachResponse{}, err)
}
