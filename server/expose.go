package server

import (
	"fmt"

	"dmps/raid"
	"dmps/transport"
)

var _ transport.Exposer = (*session)(nil)

// Expose implements transport.Exposer. An owner has pinned the chunk until it
// releases it or the session is closed, and a fence waits for that: the memory
// stays this chunk's as long as the medium may touch it.
//
// A reader pins it from now on just as long. What it reads are rows in use, which
// stay as they are, and it compares each header and page. That it may keep a chunk
// that has left its volume is what recall is for.
func (s *session) Expose(id uint64) (transport.Exposed, error) {
	var none transport.Exposed
	if err := s.alive(); err != nil {
		return none, err
	}
	c, err := s.chunk(id)
	if err != nil {
		return none, err
	}
	if c.spec.InPlace {
		return none, fmt.Errorf("%w: the slots of chunk %d are overwritten in place", transport.ErrRefused, id)
	}
	reader := s.hello.Mode != transport.ModeOwner
	if reader && !s.s.expose(c, s) {
		return none, fmt.Errorf("%w: chunk %d was given back", transport.ErrNoChunk, id)
	}
	return transport.Exposed{Spec: c.spec, Pages: c.pages, Headers: c.heads, ReadOnly: reader}, nil
}

// expose pins c for a reader's transfers, once. It reports false when c was given
// back.
func (s *Server) expose(c *chunk, reader *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := c.readers[reader]; ok {
		return true
	}
	if !c.pin() {
		return false
	}
	if c.readers == nil {
		c.readers = make(map[*session]struct{})
	}
	c.readers[reader] = struct{}{}
	return true
}

// unexpose ends that, for one chunk: the medium touches its memory no more.
func (s *Server) unexpose(id raid.ChunkID, reader *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.mu.chunks[id]; c != nil {
		c.unexposeLocked(reader)
	}
}

// unexposeAll does so for all chunks.
func (s *Server) unexposeAll(reader *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.mu.chunks {
		c.unexposeLocked(reader)
	}
}

func (c *chunk) unexposeLocked(reader *session) {
	if _, ok := c.readers[reader]; ok {
		delete(c.readers, reader)
		c.unpin()
	}
}

// recallLocked ends the sessions of readers that c is exposed to, if nothing else
// keeps it: only when they are closed is it certain that no transfer reads there.
// Such a reader dials again and finds what the layout has become.
func (c *chunk) recallLocked() {
	if n := len(c.readers); n == 0 || int(c.pins.Load()) != n {
		return
	}
	for r := range c.readers {
		r.fence(fmt.Errorf("%w: chunk %d is given back", transport.ErrClosed, c.id))
	}
}
