package server

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// maxBackoff bounds the time between attempts to reach meta, jitter included: when
// meta is back it waits for the servers as long as it takes to suspect them (2 s), and
// replaces what those hold that come later.
const maxBackoff = 2 * time.Second

// report keeps meta informed until ctx ends. The page path does not need it.
func (s *Server) report(ctx context.Context) {
	registered, fails := false, 0
	for {
		err := s.reportOnce(ctx, &registered)
		if ctx.Err() != nil {
			return
		}
		wait := s.c.Heartbeat
		if err != nil {
			s.m.heartbeatErrors.Inc()
			if fails == 0 { // once per outage
				s.c.Log.Warn("meta does not hear of this server; memory stays lent", "err", err)
			}
			fails++
			wait = min(s.c.Heartbeat<<min(fails, 6), max(maxBackoff*4/5, s.c.Heartbeat))
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

// reportOnce registers when that is due, and beats.
func (s *Server) reportOnce(ctx context.Context, registered *bool) error {
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
		*registered = true
	}
	st := s.Stats()
	r, err := s.c.Registrar.Heartbeat(ctx, Heartbeat{
		ID: s.c.ID, Incarnation: s.incarnation,
		MemoryTotal: st.MemoryTotal, MemoryUsed: st.MemoryUsed, Chunks: s.chunkIDs(), Owned: s.owned(),
		Short: st.Short, WantedFree: st.WantedFree, NotAccepting: s.accepting() != nil,
	})
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
