package server

import (
	"fmt"

	"dmps/transport"
)

var _ transport.Exposer = (*session)(nil)

// Expose implements transport.Exposer. An owner has pinned the chunk until it
// releases it or the session is closed, and a fence waits for that: the memory
// stays this chunk's as long as the medium may touch it.
//
// A reader pins only by the read, so that it does not keep a chunk that has left
// its volume: it has nothing exposed.
func (s *session) Expose(id uint64) (transport.Exposed, error) {
	var none transport.Exposed
	if err := s.alive(); err != nil {
		return none, err
	}
	if s.hello.Mode != transport.ModeOwner {
		return none, fmt.Errorf("%w: a reader has no chunk exposed", transport.ErrRefused)
	}
	c, err := s.chunk(id)
	if err != nil {
		return none, err
	}
	if c.spec.InPlace {
		return none, fmt.Errorf("%w: the slots of chunk %d are overwritten in place", transport.ErrRefused, id)
	}
	return transport.Exposed{Spec: c.spec, Pages: c.pages, Headers: c.heads}, nil
}
