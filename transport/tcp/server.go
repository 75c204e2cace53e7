package tcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"dmps/internal/accept"
	"dmps/transport"
)

// Server serves a Backend on a listener.
type Server struct {
	Backend transport.Backend
	Log     *slog.Logger // nil: slog.Default

	life
	most int // of connections; 0: by the limits of the process

	mu struct {
		sync.Mutex
		closed  bool
		most    int
		conns   map[net.Conn]source
		early   map[source]int        // connections without a hello
		leaving map[net.Conn]struct{} // refused, and not closed yet
		wg      sync.WaitGroup        // one a connection

		turnedAway uint64    // connections refused
		unsaid     int       // of these not in the log
		said       time.Time // when the log was told last
	}
}

// helloTimeout bounds how long a connection may be without a session.
const helloTimeout = 10 * time.Second

// socketBuffer is the size of a socket's send buffer in bytes: a few transfers
// of 128 KiB, so that a flush rarely has to leave its rest to another
// goroutine. With the kernel's initial size a round trip of 128 KiB through
// package stream took 157 us instead of 62. Larger costs cache: on loopback
// 1 MiB took 77 to 85 us of CPU per 128 KiB read, 512 KiB and 256 KiB 64 to 67.
// It bounds the bandwidth-delay product; 512 KiB fill 25 Gbit/s at 160 us.
const socketBuffer = 512 << 10

// Serve accepts connections until l is closed or Close is called, and returns nil
// then, whatever fails meanwhile (package accept). It owns l.
func (s *Server) Serve(l net.Listener) error {
	l = accept.Keep(l, s.Log)
	defer l.Close()
	stop := context.AfterFunc(s.context(), func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // closed
		}
		if s.admit(c) {
			go s.serve(c)
		}
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.Default()
}

func (s *Server) serve(c net.Conn) {
	defer s.remove(c)
	err := s.session(c)
	switch {
	case err == nil || s.isClosed():
	case errors.Is(err, errFrame):
		s.log().Warn("connection ended: the peer does not keep the protocol", "peer", c.RemoteAddr().String(), "err", err)
	default:
		s.log().Info("session ended", "peer", c.RemoteAddr().String(), "err", err)
	}
}

// A host that vanishes says nothing more. While its sessions stand, nobody else gets its
// volume without asking for a takeover, so they are probed sooner than the system does:
// they end after half a minute. TCP_USER_TIMEOUT would end those with replies under way
// too, but also those of a client that is merely stopped, whose volume stays its own.
var probing = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}

// session shakes hands on c and serves it to its end.
func (s *Server) session(c net.Conn) error {
	if t, ok := c.(*net.TCPConn); ok {
		// A failure leaves a slower connection, not a wrong one, or one that ends later.
		_ = t.SetNoDelay(true)
		_ = t.SetWriteBuffer(socketBuffer)
		_ = t.SetKeepAliveConfig(probing)
	}
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	h, err := decodeHello(c)
	s.greeted(sourceOf(c))
	if err != nil {
		if errors.Is(err, transport.ErrRefused) {
			_, _ = c.Write(encodeRefusal(err)) // the connection ends either way
		}
		return err
	}
	ss, err := newSession(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.context(), helloTimeout)
	defer cancel()
	b, w, err := s.Backend.Open(ctx, h, ss.stop)
	if err != nil {
		ss.w.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second)) // Close has expired it
		_, _ = c.Write(encodeRefusal(err))
		return err
	}
	w.Window = min(w.Window, maxWindow)
	return ss.run(b, w, versionOf(h))
}

func (s *Server) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.conns, c)
	s.mu.wg.Done()
}
