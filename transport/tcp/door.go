package tcp

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"dmps/transport"
)

const (
	// maxConns bounds the connections of a server. A client has one a volume, a
	// rebuild a few more.
	maxConns = 4096
	// maxEarly bounds those of one source that have said no hello yet: one host may
	// begin hundreds of sessions at once, and nobody keeps the others out with it.
	maxEarly = 256
	// maxLeaving bounds the refused ones that get the time to read why.
	maxLeaving = 64
	// sayEvery is how often the log tells of refusals.
	sayEvery = 10 * time.Second
)

// source is whom a connection counts for: an IPv4 address, or the network of an
// IPv6 host. Zero: not known.
type source = netip.Prefix

func sourceOf(c net.Conn) source {
	t, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return source{}
	}
	ip := t.AddrPort().Addr().Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return source{}
	}
	return p
}

// limit is how many connections are let in: a quarter of the descriptors stays for
// everything else.
func (s *Server) limit() int {
	if s.most != 0 {
		return s.most
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return maxConns
	}
	return limitOf(r.Cur)
}

func limitOf(descriptors uint64) int { return int(min(maxConns, descriptors-descriptors/4)) }

// admit lets a connection in, or refuses and closes it.
func (s *Server) admit(c net.Conn) bool {
	s.mu.Lock()
	err := s.admitLocked(c)
	closed := s.mu.closed
	s.mu.Unlock()
	switch {
	case err == nil:
		return true
	case closed:
		c.Close()
	default:
		s.refuse(c, err)
	}
	return false
}

func (s *Server) admitLocked(c net.Conn) error {
	from := sourceOf(c)
	if s.mu.conns == nil {
		s.mu.conns = make(map[net.Conn]source)
		s.mu.early = make(map[source]int)
		s.mu.leaving = make(map[net.Conn]struct{})
		s.mu.most = s.limit()
	}
	switch {
	case s.mu.closed:
		return transport.ErrClosed
	case len(s.mu.conns) >= s.mu.most:
		return s.fullLocked()
	case s.mu.early[from] >= maxEarly:
		return fmt.Errorf("%w: %d connections from %s have not said who they are: no more are taken", transport.ErrRefused, maxEarly, from)
	}
	s.mu.conns[c] = from
	s.mu.early[from]++
	s.mu.wg.Add(1)
	return nil
}

// greeted notes that a connection has said its hello, or ends.
func (s *Server) greeted(from source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.early[from]--; s.mu.early[from] == 0 {
		delete(s.mu.early, from)
	}
}

func (s *Server) fullLocked() error {
	return fmt.Errorf("%w: all %d connections of this server are taken", transport.ErrRefused, s.mu.most)
}

// Full says why no connection is taken at the moment; nil: there is room.
func (s *Server) Full() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.conns == nil || len(s.mu.conns) < s.mu.most {
		return nil
	}
	return s.fullLocked()
}

// TurnedAway counts the connections that were refused for a limit.
func (s *Server) TurnedAway() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.turnedAway
}

// refuse tells a peer and the log that a limit is reached. The peer gets a moment to
// read that: a close with unread input would reset the connection and lose it.
func (s *Server) refuse(c net.Conn, why error) {
	s.mu.Lock()
	s.mu.turnedAway++
	s.mu.unsaid++
	unsaid := s.mu.unsaid
	say := time.Since(s.mu.said) >= sayEvery
	if say {
		s.mu.said, s.mu.unsaid = time.Now(), 0
	}
	stays := !s.mu.closed && len(s.mu.leaving) < maxLeaving
	if stays {
		s.mu.leaving[c] = struct{}{}
		s.mu.wg.Add(1)
	}
	s.mu.Unlock()
	if say {
		s.log().Warn("connection refused", "peer", c.RemoteAddr().String(), "err", why, "refused", unsaid)
	}
	_ = c.SetDeadline(time.Now().Add(linger))
	_, _ = c.Write(encodeRefusal(why)) // fits into the socket's buffer: it does not wait
	if !stays {
		c.Close()
		return
	}
	go func() {
		if t, ok := c.(*net.TCPConn); ok && t.CloseWrite() == nil {
			_, _ = io.CopyN(io.Discard, c, prefixSize+maxHello)
		}
		c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.mu.leaving, c)
		s.mu.wg.Done()
	}()
}
