package transport

import "sync"

// Sessions are those that a Dialer has opened and that have not ended. The zero
// value is ready; its methods may be called from any goroutine.
type Sessions[C interface {
	comparable
	Close() error
}] struct {
	mu struct {
		sync.Mutex
		closed bool
		open   map[C]struct{}
	}
}

// Add says that a session has begun. Errors: ErrClosed, after Close; then ending it
// is left to the caller.
func (s *Sessions[C]) Add(c C) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return ErrClosed
	}
	if s.mu.open == nil {
		s.mu.open = make(map[C]struct{})
	}
	s.mu.open[c] = struct{}{}
	return nil
}

// Remove says that a session has ended; it may not have been added.
func (s *Sessions[C]) Remove(c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.open, c)
}

// Close ends every session by its Close, whose errors say nothing new, and returns
// when all have returned. No other one is added from then on.
func (s *Sessions[C]) Close() {
	s.mu.Lock()
	s.mu.closed = true
	all := make([]C, 0, len(s.mu.open))
	for c := range s.mu.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}
