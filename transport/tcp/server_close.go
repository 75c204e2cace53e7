package tcp

import (
	"context"
	"sync"
)

// life is the part of a Server that ends it.
type life struct {
	once   sync.Once
	ctx    context.Context
	cancel context.CancelFunc
}

func (l *life) context() context.Context {
	l.once.Do(func() { l.ctx, l.cancel = context.WithCancel(context.Background()) })
	return l.ctx
}

func (l *life) isClosed() bool { return l.context().Err() != nil }

// Close ends Serve and every session, and returns when nothing of them touches
// the Backend's memory any more.
func (s *Server) Close() error {
	s.context()
	s.cancel()
	s.mu.Lock()
	s.mu.closed = true
	for c := range s.mu.conns {
		c.Close()
	}
	for c := range s.mu.leaving {
		c.Close()
	}
	s.mu.Unlock()
	s.mu.wg.Wait()
	return nil
}
