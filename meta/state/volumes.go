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
	v := &Volume{
		Name: req.Name, Kind: req.Kind, Geometry: req.Geometry, Pages: req.Pages,
		MinAck: req.MinAck, TargetFill: req.TargetFill, Domain: req.Domain, PlacedBy: req.Domain,
		Created: req.Now, Request: req.Request,
	}
	var groups [][]raid.ServerID
	var refusal *Refusal
	if req.Kind == raid.LayoutLog {
		slots, n := sizeLog(req.Pages, req.Geometry, req.TargetFill, req.ChunkSlots)
		if refusal := req.checkCount(slots, n); refusal != nil {
			return nil, refusal
		}
		v.ChunkSlots = slots
		groups, v.PlacedBy, refusal = s.placeLog(&req, slots, int(n))
	} else {
		v.ChunkSlots, groups, refusal = s.placeInPlace(&req)
	}
	if refusal != nil {
		return nil, refusal
	}

	// Nothing is refused any more: the state may change.
	v.ID = s.NextVolume
	s.NextVolume++
	for g, servers := range groups {
		group := &Group{Members: make([]Member, len(servers))}
		for col, id := range servers {
			sv := s.Servers[id]
			group.Members[col] = Member{Server: id, Incarnation: sv.Incarnation, Chunk: s.NextChunk}
			s.NextChunk++
			sv.Chunks++
			sv.Reserved += v.chunkBytes(col)
			s.touchServer(id)
		}
		v.Groups = append(v.Groups, group)
		s.touchGroup(v.ID, g)
	}
	s.Volumes[v.ID] = v
	s.byName[v.Name] = v.ID
	s.indexChunks(v)
	s.touchVolume(v.ID)
	s.touched.Root = true
	return v.ID, nil
}

// deleteVolume takes a volume away. Its memory counts as reserved until the
// servers gave it back (Freed).
func (s *State) deleteVolume(c *DeleteVolume) *Refusal {
	v, ok := s.VolumeByName(c.Name)
	switch {
	case !ok:
		return refuse(NoVolume, "no volume %q", c.Name)
	case v.Lease != nil && v.Lease.Epoch != c.Expired && !c.Force:
		return inUse(v)
	}
	for g, group := range v.Groups {
		s.touchGroup(v.ID, g)
		for col, m := range group.Members {
			delete(s.chunks, m.Chunk)
			sv := s.Servers[m.Server]
			if m.State == raid.MemberLost || sv == nil || sv.Incarnation != m.Incarnation {
				continue // the memory went with its server
			}
			sv.Chunks--
			if sv.Freeing == nil {
				sv.Freeing = map[raid.ChunkID]uint64{}
			}
			sv.Freeing[m.Chunk] = v.chunkBytes(col)
			s.touchServer(sv.ID)
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
	l := &raid.Layout{
		Volume: v.ID, Name: v.Name, Kind: v.Kind, Geometry: v.Geometry, Pages: v.Pages,
		ChunkSlots: v.ChunkSlots, MinAck: v.MinAck, Epoch: epoch, FirstEpoch: first,
		Cluster: s.Cluster, TargetFill: v.TargetFill, Groups: make([]raid.Group, len(v.Groups)),
	}
	for g, group := range v.Groups {
		members := make([]raid.Member, len(group.Members))
		for c, m := range group.Members {
			members[c] = raid.Member{Server: m.Server, Incarnation: m.Incarnation, Chunk: m.Chunk, State: m.State}
			if sv := s.Servers[m.Server]; sv != nil {
				members[c].Addr = sv.Addr
			}
		}
		l.Groups[g] = raid.Group{ID: raid.GroupID(g), Members: members}
	}
	return l
}
