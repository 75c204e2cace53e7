package server

import (
	"cmp"
	"slices"
)

// Arena is memory that the server lends, while the server is open: all of it until parts
// have got other addresses, the largest mapping then. It is for tests that damage it
// from outside, as bad memory would (chaos/badmem): nothing else may change it.
func (s *Server) Arena() []byte {
	s.arena.mu.Lock()
	defer s.arena.mu.Unlock()
	return s.arena.bytes(slices.MaxFunc(s.arena.maps, func(a, b extent) int { return cmp.Compare(a.size, b.size) }))
}
