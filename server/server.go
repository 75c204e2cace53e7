package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"dmps/internal/accept"
	"dmps/internal/pace"
	"dmps/raid"
	"dmps/transport"
)

// Server is a memory server. It implements transport.Backend.
type Server struct {
	c           Config
	incarnation raid.Incarnation
	arena       *arena
	pool        *rebuildPool
	pace        pace.Pace // of all rebuilds
	m           *metrics
	n           counters
	net         Front // nil: it does not listen
	doors       []*accept.Listener
	retired     atomic.Bool
	addr        string
	asked       []raid.ChunkID // the next heartbeat says what they are; of report alone

	sweeps     chan struct{} // wakes the sweeper
	zero       func([]byte)  // what it clears with; tests stop it there
	cancel     context.CancelFunc
	wg         sync.WaitGroup
	rebuilding sync.WaitGroup // one a rebuild; begun under mu, and not once closing is set

	// mu guards the books, not the memory: it is not taken on the page path.
	mu struct {
		sync.Mutex
		cluster string
		volumes map[raid.VolumeID]*volume
		chunks  map[raid.ChunkID]*chunk
		making  map[raid.ChunkID]chan struct{} // chunks; closed when they are there
		free    extents                        // of what no chunk has
		dirty   []extent                       // of dropped chunks: not cleared yet, neither lent nor free
		swept   chan struct{}                  // closed and replaced when one of them is
		closing bool

		short    bool     // the host is short of memory
		wanted   uint64   // bytes of chunks that would help; 0 unless short
		withheld []extent // given back to the system: neither lent nor free
		stuck    bool     // the first of them could not be had again
	}
}

var _ transport.Backend = (*Server)(nil)

// counters are on the page path: no labels, no locks.
type counters struct {
	reads, writes, pagesIn, pagesOut atomic.Uint64
	rebuilt, rebuildFailed           atomic.Uint64 // rows
	verified, verifyBad              atomic.Uint64 // slots of its own
	checked                          atomic.Uint64 // bytes of these
	pulled                           atomic.Uint64 // bytes
}

// New maps and locks the memory and, when c.Listen is set, starts to serve it;
// with a Registrar it registers in the background. End it with Close.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("memory server %q: %w", c.ID, err)
	}
	var inc [8]byte
	for inc == [8]byte{} { // 0 means any
		if _, err := rand.Read(inc[:]); err != nil {
			return nil, fmt.Errorf("drawing an incarnation: %w", err)
		}
	}
	s := &Server{c: c, incarnation: raid.Incarnation(binary.LittleEndian.Uint64(inc[:])), sweeps: make(chan struct{}, 1)}
	s.mu.cluster = c.Cluster
	s.mu.volumes = make(map[raid.VolumeID]*volume)
	s.mu.chunks = make(map[raid.ChunkID]*chunk)
	s.mu.making = make(map[raid.ChunkID]chan struct{})
	s.mu.free, s.mu.swept = newExtents(c.Memory), make(chan struct{})
	if s.m, err = newMetrics(s, c.Metrics); err != nil {
		return nil, err
	}
	if s.arena, err = newArena(c.Memory, c.AllowSwappable); err != nil {
		return nil, errors.Join(err, s.m.unregister(c.Metrics))
	}
	if s.pool, err = newRebuildPool(); err != nil {
		return nil, errors.Join(err, s.arena.close(), s.m.unregister(c.Metrics))
	}
	s.pace.Set(float64(c.RebuildRate))
	if err := c.Peers.Register(s.pool.arena.mem); err != nil {
		return nil, errors.Join(fmt.Errorf("registering the buffers for rebuilds: %w", err), s.pool.close(), s.arena.close(), s.m.unregister(c.Metrics))
	}
	if !s.arena.locked {
		c.Log.Warn("the memory could not be locked: when this machine swaps, clients stall, and may deadlock if it swaps to them")
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	if err := s.listen(); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("listening for clients: %w", err), s.closeMemory(), s.m.unregister(c.Metrics))
	}
	s.zero = func(b []byte) { clear(b) }
	s.wg.Go(func() { s.sweep(ctx) })
	if c.Registrar != nil {
		s.wg.Go(func() { s.report(ctx) })
	}
	s.wg.Go(func() { s.watchMemory(ctx) })
	c.Log.Info("memory server is up", "addr", s.addr, "memory", c.Memory, "locked", s.arena.locked, "incarnation", fmt.Sprintf("%016x", uint64(s.incarnation)))
	return s, nil
}

// listen starts to serve c.Listen, and sets the address that clients are told.
func (s *Server) listen() error {
	var open []*accept.Listener
	var at []string
	fail := func(err error) error {
		for _, l := range open {
			l.Close()
		}
		return err
	}
	if s.c.Listen != "" {
		for _, a := range strings.Split(s.c.Listen, ",") {
			l, err := accept.Listen(context.Background(), "tcp", a, s.c.Log)
			if err != nil {
				return fail(err)
			}
			open, at = append(open, accept.Keep(l, nil)), append(at, l.Addr().String())
		}
	}
	if s.c.Advertise != "" {
		at = strings.Split(s.c.Advertise, ",")
	}
	if len(at) == 0 {
		return nil
	}
	var err error
	if s.addr, err = s.c.address(at); err != nil {
		return fail(err)
	}
	if len(open) > 0 {
		s.net = s.c.Front(s)
	}
	s.doors = open
	for _, l := range open {
		s.wg.Go(func() {
			if err := s.net.Serve(l); err != nil {
				s.c.Log.Error("no more sessions are accepted", "addr", l.Addr().String(), "err", err)
			}
		})
	}
	return nil
}

// accepting says why nobody gets a new session at the moment; nil: they do. One
// address that is deaf is enough, for a client may have no other.
func (s *Server) accepting() error {
	if s.retired.Load() {
		return errors.New("it is about to end")
	}
	for _, l := range s.doors {
		if err := l.Err(); err != nil {
			return fmt.Errorf("accepting at %s: %w", l.Addr(), err)
		}
	}
	if s.net == nil {
		return nil
	}
	return s.net.Full()
}

// Retire has heartbeats say that the server accepts nobody: it is given no chunks any
// more. Sessions go on, and new ones are let in all the same.
func (s *Server) Retire() { s.retired.Store(true) }

// Addr is the transport address that clients dial, such as tcp://host:port; with
// several interfaces all of them, as rails.Join makes it.
func (s *Server) Addr() string { return s.addr }

// Incarnation is random and names this life of the arena.
func (s *Server) Incarnation() raid.Incarnation { return s.incarnation }

// Cluster is the id of the cluster, empty while it is not known.
func (s *Server) Cluster() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.cluster
}

// closeMemory ends the sessions with other servers, which use the pool, and
// gives the memory back.
func (s *Server) closeMemory() error {
	return errors.Join(s.c.Peers.Close(), s.pool.close(), s.arena.close())
}

// Close ends all sessions, waits for them until ctx ends, and gives the memory
// back. When sessions do not end in time it returns an error and keeps the
// mapping, which they may still be using.
func (s *Server) Close(ctx context.Context) error {
	s.cancel()
	s.mu.Lock()
	again := s.mu.closing
	s.mu.closing = true
	var open []*session
	for _, v := range s.mu.volumes {
		for ss := range v.sessions {
			open = append(open, ss)
		}
	}
	s.mu.Unlock()
	if again {
		return nil
	}
	for _, ss := range open {
		ss.fence(fmt.Errorf("%w: the server is closing", transport.ErrClosed))
	}
	closed := make(chan error, 1)
	go func() {
		for _, ss := range open {
			<-ss.done
		}
		var err error
		if s.net != nil {
			err = s.net.Close()
		}
		s.wg.Wait()
		s.rebuilding.Wait()
		closed <- errors.Join(err, s.closeMemory(), s.m.unregister(s.c.Metrics))
	}()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("closing memory server %s: sessions have not ended: %w", s.c.ID, ctx.Err())
	}
}
