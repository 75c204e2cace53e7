package server

// Arena is the memory that the server lends, while the server is open. It is
// for tests that damage it from outside, as bad memory would
// (chaos/badmem): nothing else may change it.
func (s *Server) Arena() []byte { return s.arena.mem }
