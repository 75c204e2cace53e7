package nbd

import "time"

// progress is what the watch has seen of one connection.
type progress struct {
	taken   uint64    // bytes of replies that the socket took
	payload uint64    // conn.payload
	since   time.Time // when one of them changed last, or nothing was due
}

// watch ends connections whose client has stopped in the middle: with replies
// to take, or with a payload to send. Both hold buffers that others need. An
// idle connection may stay for ever.
func (s *Server) watch() {
	// Four looks make the timeout true to a quarter.
	tick := time.NewTicker(max(s.cfg.StallTimeout/4, time.Millisecond))
	defer tick.Stop()
	seen := make(map[*link]progress)
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-tick.C:
			s.look(now, seen)
		}
	}
}

// look compares every connection with what was seen of it before.
func (s *Server) look(now time.Time, seen map[*link]progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range seen {
		if _, ok := s.mu.links[k]; !ok {
			delete(seen, k)
		}
	}
	for k := range s.mu.links {
		c := k.conn.Load()
		if c == nil {
			continue // the handshake has its own deadline
		}
		p := progress{taken: c.w.Taken(), payload: c.payload.Load(), since: now}
		old, known := seen[k]
		stuck := p.payload%2 == 1 || c.w.Queued() > 0
		if known && stuck && old.taken == p.taken && old.payload == p.payload {
			p.since = old.since
		}
		seen[k] = p
		if now.Sub(p.since) >= s.cfg.StallTimeout {
			s.cfg.Log.Warn("nbd: client has stalled", "remote", k.nc.RemoteAddr().String(), "for", now.Sub(p.since))
			c.fail()
		}
	}
}
