package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dmps/internal/accept"
)

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("nbd: server closed")

// drainTime is how long connections are listened to after Shutdown began:
// requests that were on their way are answered with ESHUTDOWN.
const drainTime = 200 * time.Millisecond

// Server serves its exports on any number of listeners. Its methods may be
// called from any goroutine.
type Server struct {
	cfg     Config
	exports *catalog
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	closing atomic.Bool // Shutdown or Close was called
	serving sync.WaitGroup
	watcher sync.WaitGroup

	mu struct {
		sync.Mutex
		closing   bool // as the atomic, for who holds mu: nothing is added any more
		listeners map[net.Listener]struct{}
		links     map[*link]struct{}
	}
}

// link is a connection as the server knows it, from accept to close.
type link struct {
	nc net.Conn
	// conn is there in the transmission phase.
	conn atomic.Pointer[conn]
}

// NewServer returns a server that listens nowhere yet. Call Close, or Shutdown,
// when done with it.
func NewServer(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	exports, err := newCatalog(cfg.Exports, cfg.Default)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, exports: exports}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.listeners = make(map[net.Listener]struct{})
	s.mu.links = make(map[*link]struct{})
	if cfg.StallTimeout > 0 || cfg.Patience > 0 {
		s.watcher.Go(s.watch)
	}
	return s, nil
}

// Serve accepts connections from l, which gives TCP or unix sockets, until
// Shutdown or Close, whatever fails meanwhile (package accept); it closes l and
// returns ErrServerClosed then. It returns another error when somebody else has
// closed l.
func (s *Server) Serve(l net.Listener) error {
	l = accept.Keep(l, s.cfg.Log)
	defer func() { _ = l.Close() }() // closed already, or given up
	s.mu.Lock()
	if s.mu.closing {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.mu.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.listeners, l)
		s.mu.Unlock()
	}()
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			s.start(nc)
		case s.closing.Load():
			return ErrServerClosed
		default:
			return fmt.Errorf("nbd: accept: %w", err)
		}
	}
}

// start serves nc on a goroutine of its own, unless there are too many.
func (s *Server) start(nc net.Conn) {
	if err := s.cfg.watchPeer(nc); err != nil {
		s.cfg.Log.Warn("nbd: a client that vanishes is noticed late", "err", err)
	}
	k := &link{nc: nc}
	s.mu.Lock()
	full := len(s.mu.links) >= s.cfg.MaxConns
	if full || s.mu.closing {
		s.mu.Unlock()
		if full {
			s.cfg.Log.Warn("nbd: too many connections", "limit", s.cfg.MaxConns)
		}
		_ = nc.Close() // refused
		return
	}
	s.mu.links[k] = struct{}{}
	s.serving.Add(1)
	s.mu.Unlock()

	go func() {
		defer s.serving.Done()
		log := s.cfg.Log.With("remote", nc.RemoteAddr().String())
		if err := s.handle(k, log); err != nil {
			log.Warn("nbd: connection ended", "err", err)
		} else {
			log.Debug("nbd: connection ended")
		}
		_ = nc.Close() // everything was sent or given up
		s.mu.Lock()
		delete(s.mu.links, k)
		s.mu.Unlock()
	}()
}

// handle is the life of a connection.
func (s *Server) handle(k *link, log *slog.Logger) error {
	if err := s.deadline(k, time.Now().Add(s.cfg.HandshakeTimeout)); err != nil {
		return fmt.Errorf("negotiation: %w", err)
	}
	sess, err := negotiate(k.nc, s.exports, s.closing.Load)
	if errors.Is(err, errEnded) {
		return nil
	} else if err != nil {
		return fmt.Errorf("negotiation: %w", err)
	}
	if err := s.deadline(k, time.Time{}); err != nil {
		return err
	}
	log.Debug("nbd: connected", "export", sess.name, "structured", sess.rules.structured)
	c, err := newConn(s.ctx, k.nc, sess, &s.cfg, &s.closing)
	if err != nil {
		return err
	}
	k.conn.Store(c)
	return c.serve()
}

// deadline sets the deadline of a connection, unless Shutdown has set one.
func (s *Server) deadline(k *link, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closing {
		return nil
	}
	return k.nc.SetDeadline(t)
}

// Conns is the number of connections, those that still negotiate included.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.links)
}

// Shutdown ends the server in order: it stops accepting, lets what is in
// flight complete, answers what still arrives with ESHUTDOWN, and closes the
// connections. When ctx ends first, it goes on as Close and returns ctx's
// error.
func (s *Server) Shutdown(ctx context.Context) error {
	until := time.Now().Add(drainTime)
	s.end(func(k *link) { _ = k.nc.SetReadDeadline(until) }) // an error means that it is closed
	over := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(over)
	}()
	var err error
	select {
	case <-over:
	case <-ctx.Done():
		err = fmt.Errorf("nbd: shutdown: %w", ctx.Err())
	}
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	<-over
	return err
}

// Close ends the server at once: listeners and connections are closed. It
// returns when every request that a device has taken is completed.
func (s *Server) Close() error {
	s.cancel()
	s.end(func(k *link) { _ = k.nc.Close() }) // an error means that it is closed
	s.serving.Wait()
	s.watcher.Wait()
	return nil
}

// end stops accepting and tells each connection.
func (s *Server) end(tell func(*link)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	s.mu.closing = true
	for l := range s.mu.listeners {
		_ = l.Close() // Serve sees what comes of it
	}
	for k := range s.mu.links {
		tell(k)
	}
}
