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
// to take, or with a payload to send: both hold buffers that others need. And
// those with requests that have waited for too long. An idle connection may stay
// for ever.
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
		if unread := p.waited(now, c); s.cfg.Patience > 0 && unread >= s.cfg.Patience {
			s.cfg.Log.Warn("nbd: a request has waited unread for too long: its client may have sent it again elsewhere, the connection is closed", "remote", k.nc.RemoteAddr().String(), "for", unread)
			c.fail()
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

// waited is for how long the next request has been there, while the reader cannot
// take it because of others. What the client is slow to send does not count.
func (p *progress) waited(now time.Time, c *conn) time.Duration {
	handled := c.handled.Load()
	for len(p.arrived) > 0 && p.arrived[0].bytes <= handled {
		p.arrived = p.arrived[1:]
	}
	if bytes, err := c.r.Arrived(); err == nil && (len(p.arrived) == 0 || bytes > p.arrived[len(p.arrived)-1].bytes) && bytes > handled {
		p.arrived = append(p.arrived, arrival{bytes, now})
	}
	if len(p.arrived) == 0 || !c.standing.Load() {
		return 0
	}
	return now.Sub(p.arrived[0].at)
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
