package state

import (
	"fmt"
	"slices"

	"dmps/raid"
)

// Gaps that a recovered state leaves for what was decided after it. They are
// far above what happens between a backup and its use, and far below what the
// numbers can hold (raid.MaxEpoch).
const (
	recoverEpochs  = 1 << 12
	recoverVolumes = 1 << 20
	recoverChunks  = 1 << 32
	recoverEvents  = 1 << 20

	// A backup that is restored twice knows nothing of what was given out after the
	// first time. So what it begins with grows with the time too: faster than ids and
	// leases are given out.
	recoverSince     = 1_767_225_600_000 // Unix milliseconds: 2026 began
	chunksPerMilli   = 1 << 10
	millisPerVolume  = 1000
	millisPerEpoch   = 60 * 1000
	recoverMostEpoch = uint64(raid.MaxEpoch / 2) // by time alone
	recoverMostID    = 1 << 31                   // of volumes: headers have 32 bits for it
	maxPassOver      = 1 << 40                   // chunks
)

// Recover makes a state fit for use that may be older than the last decision:
// from a backup, or from the disk of one node that survived the others. It is
// no command: it happens before Raft starts again.
//
// Nothing that was given out since is given out again, leases are over, and
// their epochs are left behind. What servers hold is asked anew: they count as
// suspect until they say so, and a member whose chunk its server does not hold
// was replaced meanwhile and is lost (inventory).
func (s *State) Recover(now int64, why string) {
	s.now = max(now, 1)
	defer func() { s.settle(); s.now = 0 }()
	age := uint64(max(now-recoverSince, 0))
	s.NextVolume = max(s.NextVolume, raid.VolumeID(min(age/millisPerVolume, recoverMostID))) + recoverVolumes
	s.nextGeneration()
	gap := Gap{From: s.NextChunk, To: max(s.NextChunk, raid.ChunkID(age*chunksPerMilli)) + recoverChunks}
	s.Gaps, s.NextChunk = append(s.Gaps, gap), gap.To
	s.touched.Root = true
	for _, v := range s.SortedVolumes() {
		v.Untouched = v.Untouched || v.Unopened
		// Of the last one, nobody attaches it again.
		v.Epoch = min(max(v.Epoch, raid.Epoch(min(age/millisPerEpoch, recoverMostEpoch)))+recoverEpochs, raid.MaxEpoch)
		v.LastLease, v.Unopened = v.Epoch, false // somebody may have written: nobody is the first again
		v.Lease = nil
		s.newVersion(v)
	}
	for _, sv := range s.SortedServers() {
		sv.Unverified = true
		if sv.State == ServerUp {
			sv.Away = s.now
		}
		sv.State, sv.Silent, sv.Together = ServerSuspect, 0, false
		s.touchServer(sv.ID)
	}
	s.forgetNodes()
	s.note(Event{Kind: EventRestored}, "the metadata was restored %s: leases are over, and what was decided later is forgotten", why)
	e := &s.Events[len(s.Events)-1]
	delete(s.touched.Events, e.Seq)
	e.Seq += recoverEvents
	s.touched.Events[e.Seq] = struct{}{}
}

// Alone is all that changes in a state that lacks no decision when one node goes on
// with it and without the others: leases, epochs and members stay as they are. It is
// no command either.
func (s *State) Alone(now int64) {
	s.now = max(now, 1)
	defer func() { s.settle(); s.now = 0 }()
	s.nextGeneration()
	s.forgetNodes()
	s.note(Event{Kind: EventRestored}, "the metadata goes on with one of its nodes, without the others: leases and all that was decided stay")
}

func (s *State) nextGeneration() {
	s.Generation = max(s.Generation+1, uint64(s.now))
	s.touched.Root = true
}

// unknown notes what a server holds that this state knows nothing of.
func (s *State) unknown(c *Unknown) *Refusal {
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return refusal
	}
	if c.Next > 0 {
		s.passOver(c.Next - 1)
	}
	if c.Chunks > sv.Unknown {
		s.note(Event{Kind: EventChunksUnknown, Server: sv.ID, Count: c.Chunks}, "server %s holds %d chunks that the metadata did not give out: it forgot that, or another cluster did. They are kept", sv.ID, c.Chunks)
	}
	had := sv.Unknown > 0
	sv.Unknown, sv.UnknownBytes = c.Chunks, c.Bytes
	s.touchServer(sv.ID)
	if had {
		s.drained(sv)
	}
	return nil
}

// passOver sees to it that a chunk's id is not given out any more: somebody else did
// that. Ids that nobody reaches stay as they are; then it reports false.
func (s *State) passOver(id raid.ChunkID) bool {
	if id < s.NextChunk {
		return true
	}
	if id-s.NextChunk >= maxPassOver {
		return false
	}
	s.Gaps = append(s.Gaps, Gap{s.NextChunk, id + 1})
	s.NextChunk = id + 1
	s.touched.Root = true
	return true
}

// purge has a server give chunks back that nobody knows (Freeing). Those that
// have an owner by now are left alone, and ids that nobody reaches. Its result is how
// many they are.
func (s *State) purge(c *Purge) (any, *Refusal) {
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return nil, refusal
	}
	if sv.Freeing == nil {
		sv.Freeing = map[raid.ChunkID]uint64{}
	}
	n := uint64(0)
	for _, id := range c.Chunks {
		if _, owned := s.chunks[id]; owned {
			continue
		}
		if _, freeing := sv.Freeing[id]; !freeing && s.passOver(id) {
			sv.Freeing[id] = 0 // it was never reserved
			n++
		}
	}
	if n > 0 {
		s.note(Event{Kind: EventChunksPurged, Server: sv.ID, Count: n}, "server %s is told to give %d chunks back that the metadata does not know", sv.ID, n)
	}
	s.touchServer(sv.ID)
	return n, nil
}

// forgetNodes forgets who the metadata nodes were: who is there says so anew.
func (s *State) forgetNodes() {
	for id := range s.Nodes {
		delete(s.Nodes, id)
		s.touchNode(id)
	}
}

// Unverified lists the servers of a volume that have yet to say what they
// hold, without those that are down.
func (s *State) Unverified(v *Volume) (out []raid.ServerID) {
	for _, sv := range s.Servers {
		if !sv.Unverified || sv.State == ServerDown {
			continue
		}
		for c := range s.index.held[sv.ID] {
			if ref := s.chunks[c]; ref.Volume == v.ID && !ref.Pending {
				out = append(out, sv.ID)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// inventory compares what a server holds with what it should. Volumes that
// nobody ever attached have no chunks yet.
func (s *State) inventory(c *Inventory) *Refusal {
	sv, refusal := s.live(c.ID, c.Incarnation)
	if refusal != nil {
		return refusal
	}
	if !sv.Unverified {
		return nil
	}
	sv.Unverified = false
	s.touchServer(sv.ID)
	held := make(map[raid.ChunkID]bool, len(c.Chunks))
	for _, id := range c.Chunks {
		held[id] = true
	}
	var missing []ChunkRef
	var chunks []raid.ChunkID
	for _, ref := range s.heldBy(sv.ID) {
		if id := s.chunkAt(ref); !held[id] && !s.Volumes[ref.Volume].Untouched {
			missing, chunks = append(missing, ref), append(chunks, id)
		}
	}
	s.noteVolumes(Event{Kind: EventMembersLost, Server: sv.ID}, s.giveUp(missing), func(t told, whose string) string {
		return fmt.Sprintf("server %s does not hold %d members of %s that the restored metadata knows: they were replaced after the backup", sv.ID, t.count, whose)
	})
	for _, id := range chunks {
		s.forget(sv, id)
	}
	return nil
}

// chunkAt is the chunk that has an owner.
func (s *State) chunkAt(ref ChunkRef) raid.ChunkID {
	group := s.Volumes[ref.Volume].Groups[ref.Group]
	if at, ok := group.pending(int(ref.Col)); ref.Pending && ok {
		return group.Pending[at].Member.Chunk
	}
	return group.Members[ref.Col].Chunk
}

// forget frees the memory of a chunk that a server does not hold.
func (s *State) forget(sv *Server, c raid.ChunkID) {
	sv.Reserved -= sv.Freeing[c] // 0 when it is not among them
	delete(sv.Freeing, c)
}
