package mem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"dmps/transport"
)

// Network is a set of hosts that can dial each other. The zero value is ready.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*Host
}

// Serve puts a Backend at an address, which may be any string. It replaces
// what was there; end that with Close first.
func (n *Network) Serve(addr string, b transport.Backend) *Host {
	h := &Host{backend: b, changed: make(chan struct{}), conns: make(map[*conn]struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[string]*Host)
	}
	n.hosts[addr] = h
	return h
}

func (n *Network) host(addr string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[addr]
}

// Host is one server of a Network, and its faults.
type Host struct {
	backend transport.Backend

	mu      sync.Mutex
	stalled bool
	down    bool
	delay   time.Duration
	drop    int
	changed chan struct{} // closed and replaced when a fault changes
	conns   map[*conn]struct{}
}

func (h *Host) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.changed)
	h.changed = make(chan struct{})
}

// Stall freezes the host, as SIGSTOP does: it accepts requests and dials, and
// serves none before Stall(false).
func (h *Host) Stall(on bool) { h.change(func() { h.stalled = on }) }

// Delay makes the host wait before each batch of requests.
func (h *Host) Delay(d time.Duration) { h.change(func() { h.delay = d }) }

// DropReplies makes the host serve the next n requests without an answer.
func (h *Host) DropReplies(n int) { h.change(func() { h.drop = n }) }

// Disconnect ends all sessions, as a cut cable and a reset do.
func (h *Host) Disconnect() {
	for _, c := range h.all() {
		c.end(errReset)
	}
}

// Down makes the host refuse dials, and ends its sessions.
func (h *Host) Down(on bool) {
	h.change(func() { h.down = on })
	if on {
		h.Disconnect()
	}
}

// Close takes the host down and waits for its sessions.
func (h *Host) Close() {
	h.Down(true)
	for _, c := range h.all() {
		<-c.done
	}
}

func (h *Host) all() []*conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	var l []*conn
	for c := range h.conns {
		l = append(l, c)
	}
	return l
}

var errReset = errors.New("connection reset")

type faults struct {
	stalled, down bool
	delay         time.Duration
	changed       <-chan struct{}
}

func (h *Host) faults() faults {
	h.mu.Lock()
	defer h.mu.Unlock()
	return faults{h.stalled, h.down, h.delay, h.changed}
}

// dropOne reports whether this reply is to be dropped.
func (h *Host) dropOne() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drop == 0 {
		return false
	}
	h.drop--
	return true
}

// Dialer dials hosts of a Network.
type Dialer struct {
	n       *Network
	regions transport.Regions

	mu     sync.Mutex
	closed bool
	conns  map[*conn]struct{}
}

var _ transport.Dialer = (*Dialer)(nil)

// Dialer returns a new Dialer with no registered memory.
func (n *Network) Dialer() *Dialer { return &Dialer{n: n, conns: make(map[*conn]struct{})} }

// Register implements transport.Dialer.
func (d *Dialer) Register(mem []byte) error { return d.regions.Add(mem) }

// Dial implements transport.Dialer.
func (d *Dialer) Dial(ctx context.Context, addr string, hello transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := d.dial(ctx, addr, hello, idle)
	if err != nil {
		return nil, transport.Welcome{}, fmt.Errorf("session with %s: %w", addr, err)
	}
	return c, w, nil
}

func (d *Dialer) dial(ctx context.Context, addr string, hello transport.Hello, idle func()) (*conn, transport.Welcome, error) {
	d.regions.Seal()
	h := d.n.host(addr)
	for {
		if h == nil {
			return nil, transport.Welcome{}, &net.AddrError{Err: "no such host", Addr: addr}
		}
		f := h.faults()
		if f.down {
			return nil, transport.Welcome{}, errors.New("connection refused")
		}
		if !f.stalled {
			break
		}
		select {
		case <-f.changed:
		case <-ctx.Done():
			return nil, transport.Welcome{}, ctx.Err()
		}
	}
	c := newConn(h, d, idle)
	s, w, err := h.backend.Open(ctx, hello, c.end)
	if err != nil {
		return nil, w, err
	}
	c.start(s, w)
	h.mu.Lock()
	h.conns[c] = struct{}{}
	if h.down {
		c.end(errReset)
	}
	h.mu.Unlock()
	d.mu.Lock()
	d.conns[c] = struct{}{}
	if d.closed {
		c.end(transport.ErrClosed)
	}
	d.mu.Unlock()
	go c.run()
	return c, w, nil
}

func (c *conn) forget() {
	c.h.mu.Lock()
	delete(c.h.conns, c)
	c.h.mu.Unlock()
	c.d.mu.Lock()
	delete(c.d.conns, c)
	c.d.mu.Unlock()
}

// Close implements transport.Dialer.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.closed = true
	var l []*conn
	for c := range d.conns {
		l = append(l, c)
	}
	d.mu.Unlock()
	for _, c := range l {
		_ = c.Close()
	}
	return nil
}
