package transporttest

import (
	"context"
	"sync"

	"dmps/transport"
)

// Gate is a Backend that can be frozen: Medium.Stall.
type Gate struct {
	transport.Backend
	mu sync.RWMutex
}

// Stall freezes the Backend or lets it go on. While it is frozen slots are not
// read or written, and no chunk is opened.
func (g *Gate) Stall(on bool) {
	if on {
		g.mu.Lock()
	} else {
		g.mu.Unlock()
	}
}

// Open implements transport.Backend. The session is a transport.Exposer if the
// Backend's is one.
func (g *Gate) Open(ctx context.Context, h transport.Hello, stop func(error)) (transport.Session, transport.Welcome, error) {
	s, w, err := g.Backend.Open(ctx, h, stop)
	if err != nil {
		return nil, w, err
	}
	own := gated{s, g}
	if e, ok := s.(transport.Exposer); ok {
		return &struct {
			*gated
			transport.Exposer
		}{&own, e}, w, nil
	}
	return &own, w, nil
}

type gated struct {
	transport.Session
	g *Gate
}

func (s *gated) BeginWrite(io *transport.SlotIO) error {
	s.g.mu.RLock()
	defer s.g.mu.RUnlock()
	return s.Session.BeginWrite(io)
}

func (s *gated) BeginRead(io *transport.SlotIO) error {
	s.g.mu.RLock()
	defer s.g.mu.RUnlock()
	return s.Session.BeginRead(io)
}

func (s *gated) OpenChunk(chunk uint64, spec transport.ChunkSpec) error {
	s.g.mu.RLock()
	defer s.g.mu.RUnlock()
	return s.Session.OpenChunk(chunk, spec)
}
