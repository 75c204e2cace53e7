package meta

import (
	"time"

	"google.golang.org/protobuf/proto"

	"dmps/meta/level"
	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

func nodeMessage(n *state.Node) *metapb.Node {
	return &metapb.Node{Name: n.Name, Id: n.ID, ApiUrl: n.API, RaftAddr: n.Raft, Build: buildMessage(n.Build)}
}

func buildMessage(b level.Build) *metapb.Build {
	return &metapb.Build{Version: b.Version, LowestLevel: uint32(b.Lowest), HighestLevel: uint32(b.Highest)}
}

func buildFrom(p *metapb.Build) level.Build {
	return level.Build{Version: p.GetVersion(), Lowest: level.Level(p.GetLowestLevel()), Highest: level.Level(p.GetHighestLevel())}
}

// selfMessage is this node as it describes itself to others.
func (n *Node) selfMessage() *metapb.Node {
	self := n.self()
	m := nodeMessage(&self)
	m.Process = n.process
	return m
}

func layoutMessage(l *raid.Layout) *metapb.Layout {
	p := &metapb.Layout{
		Volume: uint64(l.Volume), Name: l.Name, Layout: l.Kind.String(), Redundancy: l.Geometry.String(),
		Pages: l.Pages, ChunkSlots: l.ChunkSlots, MinAck: uint32(l.MinAck), Epoch: uint64(l.Epoch),
		FirstEpoch: l.FirstEpoch, Cluster: l.Cluster, TargetFill: uint32(l.TargetFill), Version: l.Version, UnknownPages: l.Unknown,
		Groups: make([]*metapb.Group, len(l.Groups)),
	}
	for i, g := range l.Groups {
		pg := &metapb.Group{Id: uint32(g.ID), Members: make([]*metapb.Member, len(g.Members))}
		for c, m := range g.Members {
			pg.Members[c] = memberMessage(m)
		}
		for _, pd := range g.Pending {
			pg.Pending = append(pg.Pending, &metapb.Pending{Col: uint32(pd.Col), Member: memberMessage(pd.Member)})
		}
		p.Groups[i] = pg
	}
	return p
}

func memberMessage(m raid.Member) *metapb.Member {
	return &metapb.Member{
		Server: string(m.Server), Addr: m.Addr, Incarnation: uint64(m.Incarnation),
		Chunk: uint64(m.Chunk), State: memberStates[m.State],
	}
}

// noted leaves out a time that nobody noted.
func noted(unixMs int64) int64 {
	if unixMs <= 1 {
		return 0
	}
	return unixMs
}

var memberStates = map[raid.MemberState]metapb.MemberState{
	raid.MemberInSync:     metapb.MemberState_MEMBER_STATE_IN_SYNC,
	raid.MemberLost:       metapb.MemberState_MEMBER_STATE_LOST,
	raid.MemberRebuilding: metapb.MemberState_MEMBER_STATE_REBUILDING,
}

var volumeStates = map[string]metapb.VolumeState{
	state.Healthy:  metapb.VolumeState_VOLUME_STATE_HEALTHY,
	state.Degraded: metapb.VolumeState_VOLUME_STATE_DEGRADED,
	state.Failed:   metapb.VolumeState_VOLUME_STATE_FAILED,
}

var serverStates = map[state.ServerState]metapb.ServerState{
	state.ServerUp:      metapb.ServerState_SERVER_STATE_UP,
	state.ServerSuspect: metapb.ServerState_SERVER_STATE_SUSPECT,
	state.ServerDown:    metapb.ServerState_SERVER_STATE_DOWN,
}

// reportState takes the part of a report that is replicated.
func reportState(p *metapb.Report) (state.Report, error) {
	r := state.Report{
		DegradedGroups: p.GetDegradedGroups(), DegradedRows: p.GetDegradedRows(), LostPages: p.GetLostPages(),
		RedundancyLeft: int(p.GetRedundancyLeft()), RebuildRows: p.GetRebuildRows(), Unknown: p.GetUnknownPages(),
	}
	if l := p.GetLastScrub(); l != nil {
		r.LastScrub = &state.Scrub{
			Started: l.StartedUnixMs, Finished: l.FinishedUnixMs, Slots: l.SlotsVerified, Skipped: l.SlotsSkipped, SkippedReason: state.Printable(l.SkippedReason),
			Bad: l.BadSlots, Repaired: l.Repaired, Unrepairable: l.Unrepairable,
		}
	}
	for _, s := range p.GetSuspect() {
		r.Suspect = append(r.Suspect, raid.ServerID(s))
	}
	for name, s := range volumeStates {
		if s == p.GetState() {
			r.State = name
			return r, nil
		}
	}
	return r, refused(metapb.Reason_CODE_INVALID, "a report needs a state: healthy, degraded or failed")
}

func reportMessage(r *state.Report) *metapb.Report {
	p := &metapb.Report{
		State: volumeStates[r.State], DegradedGroups: r.DegradedGroups, DegradedRows: r.DegradedRows,
		LostPages: r.LostPages, RedundancyLeft: int32(r.RedundancyLeft), RebuildRows: r.RebuildRows, UnknownPages: r.Unknown,
	}
	for _, s := range r.Suspect {
		p.Suspect = append(p.Suspect, string(s))
	}
	p.LastScrub = scrubMessage(r.LastScrub)
	return p
}

func scrubMessage(l *state.Scrub) *metapb.Scrub {
	if l == nil {
		return nil
	}
	return &metapb.Scrub{
		StartedUnixMs: l.Started, FinishedUnixMs: l.Finished, SlotsVerified: l.Slots, SlotsSkipped: l.Skipped, SkippedReason: l.SkippedReason,
		BadSlots: l.Bad, Repaired: l.Repaired, Unrepairable: l.Unrepairable,
	}
}

// volumeMessage is a volume with all that the leader knows. The caller holds
// the reign's lock.
func (r *reign) volumeMessageLocked(s *state.State, v *state.Volume, now time.Time) *metapb.Volume {
	last := v.Report
	var report *metapb.Report
	if last != nil {
		report = reportMessage(last)
	}
	if fresh, ok := r.mu.reports[v.ID]; ok && fresh.epoch == v.LastLease {
		if rs, err := reportState(fresh.Report); err == nil {
			last, report = &rs, fresh.Report
			if report.LastScrub == nil && v.Report != nil && v.Report.LastScrub != nil {
				report = proto.CloneOf(report) // the leader keeps what the client said
				report.LastScrub = scrubMessage(v.Report.LastScrub)
			}
		}
	}
	h := s.Health(v, last)
	p := &metapb.Volume{
		Id: uint64(v.ID), Name: v.Name, State: volumeStates[h.State], Redundancy: v.Geometry.String(),
		Layout: v.Kind.String(), SizeBytes: v.Pages * raid.PageSize, Groups: uint64(len(v.Groups)),
		DegradedGroups: h.DegradedGroups, RedundancyLeft: int32(h.RedundancyLeft),
		TargetFill: uint32(v.TargetFill), MinAck: uint32(v.MinAck), ChunkBytes: uint64(v.ChunkSlots) * raid.PageSize,
		ReservedBytes: h.Reserved, FailureDomain: v.Domain.String(), PlacedBy: v.PlacedBy.String(),
		CreatedUnixMs: v.Created, Report: report, Version: v.Version, AtRiskSinceUnixMs: noted(h.Since),
		RebuildingMembers: h.Rebuilding, PendingMembers: h.Moving, RebuildRows: report.GetRebuildRows(),
		UnknownPages: max(v.Unknown(), report.GetUnknownPages()), UnknownSinceUnixMs: noted(v.UnknownAt), BereftGroups: h.Bereft, EmptyGroups: h.Empty,
	}
	if st := s.StuckNow(v); st != nil {
		p.StuckMembers, p.StuckReason = st.Members, st.Reason
	}
	if l := v.Lease; l != nil {
		p.Lease = &metapb.Lease{Holder: l.Holder, Epoch: uint64(l.Epoch), AdminUrl: l.Admin, Care: l.Care, Machine: l.Host.Machine, Boot: l.Host.Boot, Build: buildMessage(l.Build)}
		if end, ok := r.mu.leases[v.ID]; ok && end.epoch == l.Epoch {
			p.Lease.RemainingMs = max(end.at.Sub(now), 0).Milliseconds()
		}
	}
	return p
}

func (r *reign) serverMessageLocked(sv *state.Server) *metapb.Server {
	p := &metapb.Server{
		Id: string(sv.ID), Incarnation: uint64(sv.Incarnation), Addr: sv.Addr, Labels: make(map[string]string, len(sv.Labels)),
		State: serverStates[sv.State], MemoryTotal: sv.MemoryTotal, MemoryReserved: sv.Reserved, Chunks: sv.Chunks,
		Draining: sv.Draining, AwayUnixMs: noted(sv.Away), UnknownChunks: sv.Unknown, UnknownBytes: sv.UnknownBytes,
		Machine: sv.Host.Machine, Boot: sv.Host.Boot, Build: buildMessage(sv.Build),
	}
	switch {
	case sv.State != state.ServerUp:
	case sv.Draining:
		p.State = metapb.ServerState_SERVER_STATE_DRAINING
	case sv.Short:
		p.State = metapb.ServerState_SERVER_STATE_SHORT
	}
	for k, v := range sv.Labels {
		p.Labels[k] = v // the message outlives the lock on the state
	}
	if b, ok := r.mu.beats[sv.ID]; ok && b.incarnation == sv.Incarnation {
		p.MemoryUsed = b.used
		if b.held() && sv.State != state.ServerDown {
			p.HeldUntilUnixMs = b.at.Add(r.mass).UnixMilli()
		}
	}
	return p
}
