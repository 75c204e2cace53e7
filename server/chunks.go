package server

import (
	"fmt"
	"slices"

	"dmps/raid"
	"dmps/transport"
)

func (s *Server) lookup(id raid.ChunkID) *chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.chunks[id]
}

// openChunk finds or makes a chunk.
func (s *Server) openChunk(id raid.ChunkID, volume raid.VolumeID, spec transport.ChunkSpec) (*chunk, error) {
	if spec.Slots == 0 || spec.HeaderBytes < raid.HeaderSize || spec.HeaderBytes > raid.MaxHeaderSize ||
		(spec.HeaderBytes-raid.HeaderSize)%raid.RowEntrySize != 0 {
		return nil, fmt.Errorf("%w: no chunk has %d slots with headers of %d bytes", transport.ErrNoChunk, spec.Slots, spec.HeaderBytes)
	}
	must := spec.MustExist
	spec.MustExist = false
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.mu.chunks[id]; c != nil {
		if c.volume != volume || c.spec != spec {
			return nil, fmt.Errorf("%w: it exists with another shape or owner", transport.ErrNoChunk)
		}
		return c, nil
	}
	if must {
		return nil, transport.ErrNoChunk
	}
	size := chunkSize(spec)
	x, ok := s.mu.free.take(size)
	if !ok {
		return nil, fmt.Errorf("%w: chunk of %d bytes, %d of %d are free", transport.ErrNoMemory, size, s.mu.free.left, len(s.arena.mem))
	}
	// What another volume left must not be seen by this one. Fresh memory is
	// zero; the rest takes some 10 ms for 64 MiB, at the volume's creation.
	clear(s.arena.mem[x.off : x.off+s.mu.free.used(x)])
	c := newChunk(id, volume, spec, x, s.arena.mem)
	s.mu.chunks[id] = c
	return c, nil
}

// Drop gives chunks back that no session has open and nothing refers to. It
// returns those that it dropped; the others are to be asked for again. Readers
// that alone keep a chunk by their one-sided reads lose their session for it.
func (s *Server) Drop(ids []raid.ChunkID) []raid.ChunkID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var done []raid.ChunkID
	for _, id := range ids {
		c := s.mu.chunks[id]
		if c == nil {
			continue
		}
		if !c.pins.CompareAndSwap(0, dropped) {
			c.recallLocked()
			continue
		}
		delete(s.mu.chunks, id)
		s.giveBackLocked(c.ext)
		done = append(done, id)
	}
	return done
}

// chunkIDs lists the chunks that are lent, in order.
func (s *Server) chunkIDs() []raid.ChunkID {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]raid.ChunkID, 0, len(s.mu.chunks))
	for id := range s.mu.chunks {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
