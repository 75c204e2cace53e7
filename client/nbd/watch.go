package nbd

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// progress is what the watch has seen of one connection.
type progress struct {
	taken   uint64    // bytes of replies that the socket took
	payload uint64    // conn.payload
	since   time.Time // when one of them changed last, or nothing was due
	arrived []arrival // of requests that have not been handled, oldest first
	said    bool      // that requests are refused
}

// arrival is how much had come at a time.
type arrival struct {
	bytes uint64
	at    time.Time
}

// watchEvery is how often the connections are looked at: four looks make a
// timeout true to a quarter.
func (c *Config) watchEvery() time.Duration {
	shortest := c.StallTimeout
	if c.Patience > 0 && (shortest <= 0 || c.Patience < shortest) {
		shortest = c.Patience
	}
	return max(shortest/4, time.Millisecond)
}

// watch ends connections whose client has stopped in the middle, with replies
// to take, or with a payload to send: both hold buffers that others need. Time in
// which the device has not answered counts against nobody; but requests that wait
// behind that for too long are not carried out. An idle connection may stay for ever.
func (s *Server) watch() {
	tick := time.NewTicker(s.cfg.watchEvery())
	defer tick.Stop()
	seen := make(map[*link]*progress)
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-tick.C:
			s.look(now, seen)
		}
	}
}

// look compares every connection with what was seen of it before.
func (s *Server) look(now time.Time, seen map[*link]*progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range seen {
		if _, ok := s.mu.links[k]; !ok {
			delete(seen, k)
		}
	}
	for k := range s.mu.links {
		c := k.conn.Load()
		if c == nil {
			continue // the handshake has its own deadline
		}
		p := seen[k]
		if p == nil {
			p = &progress{since: now}
			seen[k] = p
		}
		if idle := p.stalled(now, c); s.cfg.StallTimeout > 0 && idle >= s.cfg.StallTimeout {
			s.cfg.Log.Warn("nbd: client has stalled", "remote", k.nc.RemoteAddr().String(), "for", idle)
			c.fail()
			continue
		}
		if stale := p.stale(now, c, s.cfg.Patience); s.cfg.Patience > 0 && stale > c.stale.Load() {
			if !p.said {
				s.cfg.Log.Warn("nbd: requests have waited unread for too long: those that change something fail, since their client may have sent them again elsewhere", "remote", k.nc.RemoteAddr().String(), "for", s.cfg.Patience)
			}
			p.said = true
			c.stale.Store(stale)
		}
	}
}

// stalled is for how long the client has done nothing that is due.
func (p *progress) stalled(now time.Time, c *conn) time.Duration {
	taken, payload := c.w.Taken(), c.payload.Load()
	stuck := payload%2 == 1 || c.w.Queued() > 0
	if !stuck || p.taken != taken || p.payload != payload {
		p.since = now
	}
	p.taken, p.payload = taken, payload
	return now.Sub(p.since)
}

// stale is up to which byte what has come lay here for the patience, while requests
// before it were not over. Zero: none did. A request counts as of its last byte, so that
// a client may be slow to send.
func (p *progress) stale(now time.Time, c *conn, patience time.Duration) (bytes uint64) {
	handled := c.handled.Load()
	for len(p.arrived) > 0 && p.arrived[0].bytes <= handled {
		p.arrived = p.arrived[1:]
	}
	if len(p.arrived) == 0 {
		p.said = false
	}
	if came, err := c.r.Arrived(); err == nil && (len(p.arrived) == 0 || came > p.arrived[len(p.arrived)-1].bytes) && came > handled {
		p.arrived = append(p.arrived, arrival{came, now})
	}
	for _, a := range p.arrived {
		if now.Sub(a.at) < patience {
			break
		}
		bytes = a.bytes
	}
	return bytes
}

// A client whose machine is gone is noticed after half a minute without requests.
const (
	keepIdle  = 15 * time.Second
	keepEvery = 5 * time.Second
	keepTries = 3
)

// watchPeer has the system end a TCP connection whose peer is gone: when nothing
// answers while it is idle, and when replies are not acknowledged for as long as a
// client may leave them untaken.
func (c *Config) watchPeer(nc net.Conn) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepIdle, Interval: keepEvery, Count: keepTries})
	if c.StallTimeout > 0 {
		rc, rerr := tcp.SyscallConn()
		if rerr != nil {
			return errors.Join(err, rerr)
		}
		cerr := rc.Control(func(fd uintptr) {
			rerr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(c.StallTimeout.Milliseconds()))
		})
		err = errors.Join(err, cerr, rerr)
	}
	if err != nil {
		return fmt.Errorf("watch the peer: %w", err)
	}
	return nil
}
