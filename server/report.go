package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// maxBackoff bounds the time between attempts to reach meta, before jitter: a leader that is
// new suspects whom it has not heard for 2 s. More often than it beats anyway no server asks.
const maxBackoff = time.Second

// sayAgain is how often the log is told why meta does not hear of this server.
const sayAgain = 30 * time.Second

// report keeps meta informed until ctx ends. The page path does not need it.
func (s *Server) report(ctx context.Context) {
	registered, fails := false, 0
	var said time.Time
	var told uint64 // hash of the chunks that meta has; 0: none
	for {
		err := s.reportOnce(ctx, &registered, &told)
		if ctx.Err() != nil {
			return
		}
		wait := s.c.Heartbeat
		if err != nil {
			s.m.heartbeatErrors.Inc()
			if fails == 0 || time.Since(said) > sayAgain { // the reason may be another one by now
				said = time.Now()
				s.c.Log.Warn("meta does not hear of this server; memory stays lent", "err", err)
			}
			fails++
			wait = min(s.c.Heartbeat<<min(fails, 6), max(maxBackoff, s.c.Heartbeat))
		} else if fails > 0 {
			s.c.Log.Info("meta hears of this server again", "attempts", fails)
			fails = 0
		}
		// Jitter: many servers that lost one meta do not all come back at once.
		wait = wait*3/4 + rand.N(wait/2+1)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// reportOnce registers when that is due, and beats. told is the hash of the list of chunks
// that meta has of this incarnation.
func (s *Server) reportOnce(ctx context.Context, registered *bool, told *uint64) error {
	ctx, cancel := context.WithTimeout(ctx, max(5*time.Second, s.c.Heartbeat))
	defer cancel()
	if !*registered {
		err := s.c.Registrar.Register(ctx, Info{
			ID: s.c.ID, Incarnation: s.incarnation, Addr: s.addr, Labels: maps.Clone(s.c.Labels),
			MemoryTotal: s.Stats().MemoryTotal, Cluster: s.Cluster(),
		})
		if err != nil {
			return fmt.Errorf("registering: %w", err)
		}
		*registered, *told = true, 0
	}
	r, err := s.beat(ctx, told)
	if err == nil && r.ListChunks {
		r, err = s.beat(ctx, told)
	}
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	if err := s.join(r.Cluster); err != nil {
		return err
	}
	if r.Unknown {
		*registered = false
		return nil // registers at the next beat
	}
	if s.c.Care != nil && len(r.Care) > 0 {
		s.c.Care(r.Care)
	}
	if len(r.Drop) > 0 {
		if done := s.Drop(r.Drop); len(done) > 0 {
			s.c.Log.Info("gave memory back", "chunks", len(done), "asked", len(r.Drop))
		}
	}
	return nil
}

// beat sends a heartbeat. What it holds is thousands of chunks, and changes rarely: meta has
// the list mostly, and hears that it is as it was.
func (s *Server) beat(ctx context.Context, told *uint64) (HeartbeatReply, error) {
	st, ids := s.Stats(), s.chunkIDs()
	hash := hashOf(ids)
	hb := Heartbeat{
		About: s.about(s.asked),
		ID:    s.c.ID, Incarnation: s.incarnation,
		MemoryTotal: st.MemoryTotal, MemoryUsed: st.MemoryUsed, Chunks: ids, Owned: s.owned(),
		Short: st.Short, WantedFree: st.WantedFree, NotAccepting: s.accepting() != nil,
		ChunksHash: hash, ChunksUnchanged: hash == *told,
	}
	if hb.ChunksUnchanged {
		hb.Chunks = nil
	}
	r, err := s.c.Registrar.Heartbeat(ctx, hb)
	switch {
	case err != nil:
		return r, err
	case r.ListChunks:
		*told = 0
	case !hb.ChunksUnchanged:
		*told = hash
	}
	s.asked = r.Describe
	return r, nil
}

// about says what chunks are, those that are still there.
func (s *Server) about(ids []raid.ChunkID) (out []ChunkAbout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if c := s.mu.chunks[id]; c != nil {
			out = append(out, ChunkAbout{Chunk: id, Volume: c.volume, Group: raid.GroupID(c.spec.Group), Bytes: uint64(chunkSize(c.spec)), Made: c.made})
		}
	}
	return out
}

// hashOf is of chunks in ascending order, and not 0.
func hashOf(ids []raid.ChunkID) uint64 {
	h := fnv.New64a()
	var b [8]byte
	for _, id := range ids {
		binary.LittleEndian.PutUint64(b[:], uint64(id))
		_, _ = h.Write(b[:]) // never fails
	}
	return max(h.Sum64(), 1)
}

// owned lists the volumes whose owner has a session here.
func (s *Server) owned() (ids []raid.VolumeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.mu.volumes {
		for ss := range v.sessions {
			if ss.hello.Mode == transport.ModeOwner {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}

// join takes on the cluster's id, once.
func (s *Server) join(cluster string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cluster == "" || cluster == s.mu.cluster {
		return nil
	}
	if s.mu.cluster != "" {
		return fmt.Errorf("meta is of cluster %q, this server of %q", cluster, s.mu.cluster)
	}
	s.mu.cluster = cluster
	return nil
}
