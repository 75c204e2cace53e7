package state

import "dmps/raid"

// createVolume places a volume and reserves all its chunks, or refuses it.
func (s *State) createVolume(c *CreateVolume) (any, *Refusal) {
	req := *c // validate fills in the defaults
	if refusal := req.validate(); refusal != nil {
		return nil, refusal
	}
	if v, ok := s.VolumeByName(c.Name); ok {
		if c.Request != "" && v.Request == c.Request {
			return v.ID, nil // the answer to the same call got lost
		}
		return nil, refuse(Exists, "volume %s exists already: choose another name or delete it first", c.Name)
	}
	if len(s.Volumes) >= maxVolumes {
		return nil, refuse(Invalid, "volume %s: a cluster has at most %d volumes: delete those that nobody needs", c.Name, maxVolumes)
	}
	v := &Volume{
		Name: req.Name, Kind: req.Kind, Geometry: req.Geometry, Pages: req.Pages,
		MinAck: req.MinAck, TargetFill: req.TargetFill, Domain: req.Domain, PlacedBy: req.Domain, Aim: req.Domain,
		Created: req.Now, Request: req.Request, Version: 1, Unopened: true,
	}
	var groups [][]Member
	var refusal *Refusal
	if req.Kind == raid.LayoutLog {
		slots, n := sizeLog(req.Pages, req.Geometry, req.TargetFill, req.ChunkSlots)
		if refusal := req.checkCount(slots, n); refusal != nil {
			return nil, refusal
		}
		v.ChunkSlots = slots
		groups, v.PlacedBy, refusal = s.placeLog(&req, slots, int(n))
		v.Aim = v.PlacedBy
	} else {
		v.ChunkSlots, groups, refusal = s.placeInPlace(&req)
	}
	if refusal != nil {
		return nil, refusal
	}

	// Nothing is refused any more: the state may change.
	v.ID = s.NextVolume
	s.NextVolume++
	for g, members := range groups {
		v.Groups = append(v.Groups, &Group{Members: members})
		for col, m := range members {
			members[col] = s.give(v, m.Server, ChunkRef{v.ID, raid.GroupID(g), raid.Col(col), false}, raid.MemberInSync)
			members[col].belongs(m.home())
		}
	}
	s.Volumes[v.ID] = v
	s.byName[v.Name] = v.ID
	s.touchVolume(v.ID)
	s.note(Event{Kind: EventVolumeCreated, Volume: v.Name}, "volume %s of %s, %v, in %d groups", v.Name, size(v.Pages*raid.PageSize), v.Geometry, len(v.Groups))
	return v.ID, nil
}

// deleteVolume takes a volume away. Its memory counts as reserved until the
// servers gave it back (Freed).
func (s *State) deleteVolume(c *DeleteVolume) *Refusal {
	v, ok := s.VolumeByName(c.Name)
	switch {
	case !ok:
		return refuse(NoVolume, "no volume %q", c.Name)
	case v.Lease != nil && !v.Lease.Care && v.Lease.Epoch != c.Expired && !c.Force:
		return inUse(v)
	}
	s.note(Event{Kind: EventVolumeDeleted, Volume: v.Name}, "volume %s was deleted", v.Name)
	for g, group := range v.Groups {
		s.touchGroup(v.ID, g)
		for col, m := range group.Members {
			if m.State == raid.MemberLost {
				s.lost-- // the memory went with its server
				continue
			}
			s.orphan(v, raid.Col(col), m)
		}
		for _, p := range group.Pending {
			s.orphan(v, p.Col, p.Member)
		}
	}
	delete(s.Volumes, v.ID)
	delete(s.byName, v.Name)
	s.touchVolume(v.ID)
	return nil
}

// Layout is what a client must know of a volume, under the lease of the given
// epoch.
func (s *State) Layout(v *Volume, epoch raid.Epoch, first bool) *raid.Layout {
	l := s.layoutHead(v, epoch, first)
	l.Groups = make([]raid.Group, len(v.Groups))
	for g := range v.Groups {
		l.Groups[g] = s.layoutGroup(v, g)
	}
	return l
}

// LayoutSince is what changed after a version that a client has: the groups that
// commands touched, whatever became of them. All of it, if that version is not known, or
// older than this replica's index.
func (s *State) LayoutSince(v *Volume, epoch raid.Epoch, since uint64) *raid.Layout {
	marks := s.index.marks[v.ID]
	if since == 0 || since < s.index.base[v.ID] || since > v.Version || len(marks) != len(v.Groups) {
		return s.Layout(v, epoch, false)
	}
	l := s.layoutHead(v, epoch, false)
	l.Since = since
	for g := range marks {
		if marks[g].version > since {
			l.Groups = append(l.Groups, s.layoutGroup(v, g))
		}
	}
	return l
}

func (s *State) layoutHead(v *Volume, epoch raid.Epoch, first bool) *raid.Layout {
	return &raid.Layout{
		Volume: v.ID, Name: v.Name, Kind: v.Kind, Geometry: v.Geometry, Pages: v.Pages,
		ChunkSlots: v.ChunkSlots, MinAck: v.MinAck, Epoch: epoch, Version: v.Version, FirstEpoch: first,
		Cluster: s.Cluster, Unknown: v.Unknown(), TargetFill: v.TargetFill,
	}
}

func (s *State) layoutGroup(v *Volume, g int) raid.Group {
	group := v.Groups[g]
	out := raid.Group{ID: raid.GroupID(g), Members: make([]raid.Member, len(group.Members))}
	for c, m := range group.Members {
		out.Members[c] = s.layoutMember(m)
	}
	for _, p := range group.Pending {
		out.Pending = append(out.Pending, raid.Pending{Col: p.Col, Member: s.layoutMember(p.Member)})
	}
	return out
}

func (s *State) layoutMember(m Member) raid.Member {
	r := raid.Member{Server: m.Server, Incarnation: m.Incarnation, Chunk: m.Chunk, State: m.State}
	if sv := s.Servers[m.Server]; sv != nil {
		r.Addr = sv.Addr
	}
	return r
}
