//go:build fabric && cgo

package fabric

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"dmps/transport"
	"dmps/transport/tcp"
)

// Server serves a Backend on a listener: to clients of package tcp, and to
// those of this package, which make one-sided transfers besides. Sessions of
// the Backend that are no transport.Exposer are served over the link alone.
type Server struct {
	Backend transport.Backend
	Log     *slog.Logger // nil: slog.Default
	// Providers are the short names of those that clients may choose.
	Providers []string
	// Spin is how long an endpoint looks for more before it sleeps; 0:
	// DefaultServerSpin, negative: not at all.
	Spin time.Duration

	link tcp.Server
	once sync.Once

	mu struct {
		sync.Mutex
		targets map[*target]struct{}
	}
}

// DefaultServerSpin is Server.Spin where nothing is set. Longer takes CPU from
// others on a machine of few cores, shorter costs wake-ups under load.
const DefaultServerSpin = 50 * time.Microsecond

func (s *Server) prepare() {
	s.once.Do(func() {
		s.link.Backend, s.link.Log = backend{s}, s.Log
		s.mu.targets = make(map[*target]struct{})
	})
}

// Serve accepts sessions until l is closed or Close is called, and returns nil
// then. It owns l.
func (s *Server) Serve(l net.Listener) error {
	s.prepare()
	return s.link.Serve(l)
}

// Close ends Serve and every session, and returns when nothing of them touches
// the Backend's memory any more.
func (s *Server) Close() error {
	s.prepare()
	return s.link.Close()
}

// Full says why no connection is taken at the moment; nil: there is room.
func (s *Server) Full() error { return s.link.Full() }

// TurnedAway counts the connections that were refused for a limit.
func (s *Server) TurnedAway() uint64 { return s.link.TurnedAway() }

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.Default()
}

// backend gives the sessions of a Server's Backend the half of them that is
// this package's.
type backend struct{ s *Server }

func (b backend) Open(ctx context.Context, h transport.Hello, stop func(error)) (transport.Session, transport.Welcome, error) {
	in, w, err := b.s.Backend.Open(ctx, h, stop)
	if err != nil {
		return nil, w, err
	}
	return &session{Session: in, s: b.s, stop: stop}, w, nil
}

// session is a Backend's session with, once the client attached, a target.
type session struct {
	transport.Session
	s      *Server
	stop   func(error)
	target *target
}

var _ tcp.Extender = (*session)(nil)

// Extend implements tcp.Extender.
func (s *session) Extend(question []byte) ([]byte, error) {
	switch question[0] {
	case askAttach:
		a, err := parseAttach(question)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", transport.ErrRefused, err)
		}
		return s.attach(&a)
	case askMap:
		chunk, err := parseMap(question)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", transport.ErrRefused, err)
		}
		return s.expose(chunk)
	case askEcho:
		n, err := parseEcho(question)
		if err == nil && n > tcp.MaxExtend {
			err = fmt.Errorf("%w: echo of %d bytes", errMessage, n)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", transport.ErrRefused, err)
		}
		return make([]byte, n), nil
	}
	return nil, fmt.Errorf("%w: question %d", transport.ErrRefused, question[0])
}

func (s *session) attach(a *attach) ([]byte, error) {
	if _, ok := s.Session.(transport.Exposer); !ok || !slices.Contains(s.s.Providers, a.provider) {
		return nil, fmt.Errorf("%w: one-sided transfers by %q", transport.ErrRefused, a.provider)
	}
	// A client whose endpoint does not reach this one's tries another provider.
	if t := s.target; t != nil {
		if t.hasKeys() {
			return nil, fmt.Errorf("%w: the session is attached and has keys", transport.ErrRefused)
		}
		if err := s.detach(); err != nil {
			return nil, err
		}
	}
	if net.ParseIP(a.host) == nil {
		return nil, fmt.Errorf("%w: %q is no address of this server", transport.ErrRefused, a.host)
	}
	t, err := newTarget(a, s.s.spin())
	if err != nil {
		s.s.log().Warn("no one-sided transfers for a session", "provider", a.provider, "err", err)
		return nil, fmt.Errorf("%w: %w", transport.ErrRefused, err)
	}
	addr, err := t.ep.address()
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	s.target = t
	s.s.start(t, s.stop)
	return (&attached{addr: addr, probe: t.probe.key, nonce: t.nonce}).put(), nil
}

// expose gives the client the keys of a chunk.
func (s *session) expose(chunk uint64) ([]byte, error) {
	if s.target == nil {
		return nil, fmt.Errorf("%w: not attached", transport.ErrRefused)
	}
	x, err := s.Session.(transport.Exposer).Expose(chunk)
	if err != nil {
		return nil, err
	}
	g, err := s.target.expose(chunk, x)
	if err != nil {
		s.s.log().Warn("a chunk is not exposed to one-sided transfers", "chunk", chunk, "err", err)
		return nil, fmt.Errorf("%w: %w", transport.ErrRefused, err)
	}
	return (&mapped{slots: x.Spec.Slots, headerBytes: x.Spec.HeaderBytes, pages: g.pages.key, headers: g.headers.key}).put(), nil
}

// OpenChunk implements transport.Session: keys end before the chunk is let go.
func (s *session) OpenChunk(chunk uint64, spec transport.ChunkSpec) error {
	if spec.Release && s.target != nil {
		if err := s.target.withdraw(chunk); err != nil {
			return err
		}
	}
	return s.Session.OpenChunk(chunk, spec)
}

// Close implements transport.Session: the endpoint and its keys end first.
// Whoever waits in Open for the end of this session, to let a newer one in,
// waits for that.
func (s *session) Close() {
	if err := s.detach(); err != nil {
		s.s.log().Error("one-sided transfers of a session did not end well", "err", err)
	}
	s.Session.Close()
}

func (s *session) detach() error {
	t := s.target
	if t == nil {
		return nil
	}
	s.target = nil
	s.s.end(t)
	return t.close()
}

func (s *Server) spin() time.Duration {
	if s.Spin == 0 {
		return DefaultServerSpin
	}
	return max(s.Spin, 0)
}

func (s *Server) start(t *target, stop func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.targets[t] = struct{}{}
	go t.run(stop)
}

func (s *Server) end(t *target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.targets, t)
}

// random is a number that was not given out before, and is not guessed.
func random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return le.Uint64(b[:])
}
