package server

import (
	"context"
	"time"
)

// Memory of dropped chunks is cleared before it is free: what a volume left must not
// be seen by the next one. That takes some 0.3 s a GiB, so a goroutine does it in
// pieces, without the lock that heartbeats and handshakes take. Free memory is zero.

const (
	sweepPiece = 16 << 20 // bytes cleared between two looks whether the server ends
	// sweepPatience bounds how long an open waits for memory that is being cleared, or
	// for another one to make the same chunk: less than a client waits for it.
	sweepPatience = time.Second
)

// discardLocked hands memory that nobody refers to any more to the sweeper.
func (s *Server) discardLocked(x extent) {
	s.mu.dirty = append(s.mu.dirty, x)
	select {
	case s.sweeps <- struct{}{}:
	default: // it is awake
	}
}

// sweep clears what is discarded, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	for {
		select {
		case <-s.sweeps:
		case <-ctx.Done():
			return
		}
		for s.sweepOne(ctx) {
		}
	}
}

// sweepOne clears one extent, or gives it to the system while the host is short of
// memory. It reports false when there is none, or ctx ends.
func (s *Server) sweepOne(ctx context.Context) bool {
	s.mu.Lock()
	short := s.mu.short
	var x extent
	if len(s.mu.dirty) > 0 {
		x = s.mu.dirty[0]
	}
	s.mu.Unlock()
	if x.size == 0 {
		return false
	}
	vacated := false
	if short {
		err := s.arena.vacate(x)
		if vacated = err == nil; err != nil {
			s.c.Log.Error("a chunk's memory cannot be given back to the system: it stays here", "bytes", x.size, "err", err)
		}
	}
	if !vacated && !s.clear(ctx, x) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.dirty = s.mu.dirty[1:]
	if vacated {
		s.mu.withheld = append(s.mu.withheld, x)
		s.mu.wanted -= min(s.mu.wanted, uint64(x.size))
	} else {
		s.mu.free.give(x)
	}
	close(s.mu.swept)
	s.mu.swept = make(chan struct{})
	return true
}

// clear zeroes x. It reports false when ctx ended before.
func (s *Server) clear(ctx context.Context, x extent) bool {
	for o := x.off; o < x.off+x.size; o += sweepPiece {
		if ctx.Err() != nil {
			return false
		}
		s.zero(s.arena.bytes(extent{o, min(sweepPiece, x.off+x.size-o)}))
	}
	return true
}
