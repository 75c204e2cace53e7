package server

import (
	"fmt"
	"slices"
	"time"

	"dmps/raid"
	"dmps/transport"
)

func (s *Server) lookup(id raid.ChunkID) *chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.chunks[id]
}

// openChunk finds or makes a chunk. A new one is made outside of the lock: its
// headers take some 10 ms a GiB and more. Memory that is being cleared is waited for,
// up to sweepPatience.
func (s *Server) openChunk(id raid.ChunkID, volume raid.VolumeID, spec transport.ChunkSpec) (*chunk, error) {
	if spec.Slots == 0 || spec.HeaderBytes < raid.HeaderSize || spec.HeaderBytes > raid.MaxHeaderSize ||
		(spec.HeaderBytes-raid.HeaderSize)%raid.RowEntrySize != 0 {
		return nil, fmt.Errorf("%w: no chunk has %d slots with headers of %d bytes", transport.ErrNoChunk, spec.Slots, spec.HeaderBytes)
	}
	must := spec.MustExist
	spec.MustExist = false
	var late <-chan time.Time
	for {
		c, runs, wait, err := s.claim(id, volume, spec, must)
		switch {
		case c != nil || err != nil && wait == nil:
			return c, err
		case wait == nil:
			return s.makeChunk(id, volume, spec, runs)
		case late == nil:
			t := time.NewTimer(sweepPatience)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-wait:
		case <-late:
			if err == nil {
				err = fmt.Errorf("%w: another session makes it, and is not done", transport.ErrNoChunk)
			}
			return nil, err
		}
	}
}

// claim finds a chunk, or takes the memory of a new one, which is to be made then. It
// may have to be asked again when wait is closed; with err, that is why.
func (s *Server) claim(id raid.ChunkID, volume raid.VolumeID, spec transport.ChunkSpec, must bool) (c *chunk, runs []extent, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.mu.chunks[id]; c != nil {
		if c.volume != volume || c.spec != spec {
			return nil, nil, nil, fmt.Errorf("%w: it exists with another shape or owner", transport.ErrNoChunk)
		}
		return c, nil, nil, nil
	}
	if made := s.mu.making[id]; made != nil {
		return nil, nil, made, nil
	}
	if must {
		return nil, nil, nil, transport.ErrNoChunk
	}
	size := chunkSize(spec)
	if runs = s.mu.free.take(size); runs != nil {
		s.mu.making[id] = make(chan struct{})
		return nil, runs, nil, nil
	}
	err = fmt.Errorf("%w: chunk of %d bytes, %d of %d are free", transport.ErrNoMemory, size, s.mu.free.left, s.c.Memory)
	if len(s.mu.dirty) > 0 {
		wait = s.mu.swept
	}
	return nil, nil, wait, err
}

// makeChunk makes the chunk that claim has taken runs for. Free memory is zero: what
// another volume left is not seen by this one.
func (s *Server) makeChunk(id raid.ChunkID, volume raid.VolumeID, spec transport.ChunkSpec, runs []extent) (c *chunk, err error) {
	g := gathered{got: runs[0]}
	if len(runs) > 1 {
		g, err = s.arena.gather(runs)
	}
	if err == nil {
		c = newChunk(id, volume, spec, g.got, s.arena.bytes(g.got))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.mu.making[id])
	delete(s.mu.making, id)
	if err != nil {
		for _, x := range g.free {
			s.mu.free.give(x)
		}
		if g.back.size > 0 {
			s.mu.withheld = append(s.mu.withheld, g.back)
		}
		s.c.Log.Error("memory that is free cannot be lent", "bytes", chunkSize(spec), "err", err)
		return nil, fmt.Errorf("%w: %w", transport.ErrNoMemory, err)
	}
	s.mu.chunks[id] = c
	return c, nil
}

// Drop gives chunks back that no session has open and nothing refers to. It
// returns those that it dropped; the others are to be asked for again. Readers
// that alone keep a chunk by their one-sided reads lose their session for it.
// Their memory is free, or the system's, when it has been cleared.
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
		s.discardLocked(c.ext)
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
