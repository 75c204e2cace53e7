package server

import (
	"fmt"
	"sync"
	"sync/atomic"

	"dmps/raid"
	"dmps/transport"
)

// session is a client's session; it implements transport.Session.
type session struct {
	s      *Server
	volume *volume
	hello  transport.Hello
	stop   func(cause error)
	done   chan struct{} // closed by Close

	// fenced is set when the session must not store anything any more. The
	// fence then waits for done: a write that passed the test before is over.
	fenced atomic.Pointer[error]
	closed atomic.Bool

	// chunks saves a lock: what is in it is pinned. Readers have none, so that
	// they do not keep a chunk that has left its volume: they pin by the read, or
	// have it exposed.
	chunks map[uint64]*chunk
	write  incoming
	stage  []byte // pages of a write to an InPlace chunk; made when first needed

	links   links        // of its rebuilds
	landing sync.RWMutex // shared while a rebuilt slot is stored; Close takes it
}

var _ transport.Session = (*session)(nil)

func (s *session) fence(cause error) {
	if s.fenced.CompareAndSwap(nil, &cause) {
		s.stop(cause)
	}
}

func (s *session) alive() error {
	if p := s.fenced.Load(); p != nil {
		return *p
	}
	return nil
}

// chunk finds a chunk of the session's volume.
func (s *session) chunk(id uint64) (*chunk, error) {
	if c := s.chunks[id]; c != nil {
		return c, nil
	}
	c := s.s.lookup(raid.ChunkID(id))
	if c == nil || c.volume != s.volume.id {
		return nil, fmt.Errorf("%w: chunk %d", transport.ErrNoChunk, id)
	}
	return c, s.hold(id, c)
}

// hold keeps an owner's chunk open until it is released or the session ends.
func (s *session) hold(id uint64, c *chunk) error {
	if s.hello.Mode != transport.ModeOwner || s.chunks[id] == c {
		return nil
	}
	if !c.pin() {
		return fmt.Errorf("%w: chunk %d was given back", transport.ErrNoChunk, id)
	}
	s.chunks[id] = c
	return nil
}

// release is the end of that.
func (s *session) release(id uint64) {
	if c := s.chunks[id]; c != nil {
		delete(s.chunks, id)
		c.unpin()
	}
}

func (s *session) begin(io *transport.SlotIO) (*chunk, error) {
	if err := s.alive(); err != nil {
		return nil, err
	}
	c, err := s.chunk(io.Chunk)
	if err != nil {
		return nil, err
	}
	return c, c.check(io)
}

// OpenChunk implements transport.Session.
func (s *session) OpenChunk(id uint64, spec transport.ChunkSpec) error {
	if err := s.alive(); err != nil {
		return err
	}
	if spec.Release {
		s.release(id)
		s.s.unexpose(raid.ChunkID(id), s)
		return nil
	}
	if s.hello.Mode != transport.ModeOwner {
		spec.MustExist = true // a reader creates nothing
	}
	c, err := s.s.openChunk(raid.ChunkID(id), s.volume.id, spec)
	if err != nil {
		return fmt.Errorf("opening chunk %d: %w", id, err)
	}
	return s.hold(id, c)
}

// BeginRead implements transport.Session.
func (s *session) BeginRead(io *transport.SlotIO) error {
	c, err := s.begin(io)
	if err != nil {
		return err
	}
	if err := s.pin(c, io); err != nil {
		return err
	}
	n, o := io.HeaderBytes, 0
	c.mu.RLock()
	for _, r := range io.Runs {
		o += copy(io.Headers[o:], c.heads[int(r.Start)*n:int(r.Start+r.Count)*n])
	}
	c.mu.RUnlock()
	io.Mem = c.appendPages(io.Mem, io)
	return nil
}

// BeginReadHeaders implements transport.Session.
func (s *session) BeginReadHeaders(io *transport.SlotIO) error {
	c, err := s.begin(io)
	if err != nil {
		return err
	}
	if err := s.pin(c, io); err != nil {
		return err
	}
	r := io.Runs[0]
	io.Mem = append(io.Mem, c.heads[int(r.Start)*io.HeaderBytes:int(r.Start+r.Count)*io.HeaderBytes])
	return nil
}

// pin keeps what a read refers to, until EndRead.
func (s *session) pin(c *chunk, io *transport.SlotIO) error {
	if !c.pin() {
		return fmt.Errorf("%w: chunk %d was given back", transport.ErrNoChunk, c.id)
	}
	io.Held = c
	s.s.n.reads.Add(1)
	s.s.n.pagesOut.Add(uint64(io.Segs))
	return nil
}

// EndRead implements transport.Session.
func (s *session) EndRead(io *transport.SlotIO) {
	io.Held.(*chunk).unpin()
	io.Held = nil
}

// Close implements transport.Session.
func (s *session) Close() {
	if s.closed.Swap(true) {
		return
	}
	s.links.close()
	// A rebuild that stores a slot right now may finish that one; the next
	// one sees that the session is closed.
	s.landing.Lock()
	s.landing.Unlock() //lint:ignore SA2001 waits for those that hold it
	for id := range s.chunks {
		s.release(id)
	}
	if s.hello.Mode != transport.ModeOwner {
		s.s.unexposeAll(s)
	}
	s.s.forget(s)
	close(s.done)
}
