package meta

import (
	"slices"
	"time"

	"dmps/client"
	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// A server has to refuse memory for a member for the grace (Config.Grace) until that is
// placed elsewhere: what a deleted volume held is cleared, and lent again, sooner.

// fullFor is for how long a server that refused memory gets no new members.
const fullFor = 10 * time.Minute

// full is a server that refused memory.
type full struct {
	incarnation raid.Incarnation
	at          time.Time // when a client said so last
}

// hearLocked takes a lease holder's report. Of the members that it says were refused only
// those of its volume count, and since when it says so without a break.
func (r *reign) hearLocked(s *state.State, volume raid.VolumeID, epoch raid.Epoch, fresh *metapb.Report, now time.Time) {
	last, is := r.mu.reports[volume], report{epoch: epoch, Report: fresh}
	said := fresh.Refused
	fresh.Refused = nil
	for _, m := range said[:min(len(said), client.MaxRefused)] {
		id := raid.ChunkID(m.GetChunk())
		at, member, ok := s.Chunk(volume, id)
		if _, twice := is.refused[id]; !ok || twice {
			continue // it has left
		}
		if is.refused == nil {
			is.refused = map[raid.ChunkID]time.Time{}
		}
		is.refused[id] = now
		if since, ok := last.refused[id]; ok && last.epoch == epoch {
			is.refused[id] = since
		}
		fresh.Refused = append(fresh.Refused, &metapb.RefusedMember{Group: uint32(at.Group), Col: uint32(at.Col), Server: string(member.Server), Chunk: m.Chunk})
		r.mu.full[member.Server] = full{member.Incarnation, now}
	}
	r.mu.reports[volume] = is
}

// refusedLocked lists the chunks that servers refused for so long, as lease holders say whose
// leases are valid; at most as many as a command takes.
func (r *reign) refusedLocked(s *state.State, now time.Time, long time.Duration) (out []raid.ChunkID) {
	for volume, is := range r.mu.reports {
		if len(is.refused) == 0 || s.Renewable(volume, is.epoch) != nil {
			continue
		}
		if end := r.mu.leases[volume]; end.epoch != is.epoch || now.After(end.at) {
			continue
		}
		for id, since := range is.refused {
			if _, _, ok := s.Chunk(volume, id); ok && now.Sub(since) >= long {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return out[:min(len(out), healBatch)]
}

// fullLocked lists the servers that refused memory lately, and forgets the others.
func (r *reign) fullLocked(s *state.State, now time.Time) (out []raid.ServerID) {
	for id, f := range r.mu.full {
		if sv := s.Servers[id]; sv == nil || sv.Incarnation != f.incarnation || now.Sub(f.at) > fullFor {
			delete(r.mu.full, id)
			continue
		}
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
