//go:build fabric && cgo

package fabric

// Stall freezes and thaws the one-sided half of all sessions that exist, as a
// frozen process does where the provider needs the target's CPU.
func (s *Server) Stall(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.mu.targets {
		if on {
			t.stall()
		} else {
			t.thaw()
		}
	}
}

// Available reports why a provider cannot be used here, or nil.
func Available(provider string) error {
	d, err := openDomain(provider, "127.0.0.1")
	if err != nil {
		return err
	}
	return d.close()
}
