//go:build fabric && cgo

package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dmps/transport"
	"dmps/transport/tcp"
)

// Built reports whether this binary has one-sided transfers (build tag fabric).
const Built = true

// Dialer opens sessions with one-sided transfers. Addresses have the form
// fabric+PROVIDER://host:port, or name several providers: then a session is by the
// first that both sides have. The zero value is ready.
type Dialer struct {
	// Eager is the largest request, in bytes of pages and headers, that goes
	// over the link, through the server's CPU; larger ones are one-sided. 0: what
	// was faster for requests without pages when the first session with the server
	// began; negative: none, all that can be is one-sided.
	Eager int
	// Strict makes Dial fail where there are no one-sided transfers: the provider
	// is not there on one of both sides, or the endpoints do not reach each
	// other. Else the link then carries everything.
	Strict bool
	// Log is told of that; nil: slog.Default.
	Log *slog.Logger
	// Spin is how long a session with something in flight looks for completions
	// before it sleeps; 0: DefaultSpin, negative: not at all.
	Spin time.Duration

	link     tcp.Dialer
	regions  transport.Regions
	sessions transport.Sessions[*conn]

	mu struct {
		sync.Mutex
		mem     [][]byte // registered
		closed  bool
		domains map[domainKey]*domain
		eager   map[string]int // what was measured, by provider and address
	}

	oneSided, linked atomic.Uint64
}

// Counts are the requests that sessions of a Dialer have taken, by the way that they
// went: one-sided, or over the links.
type Counts struct{ OneSided, Linked uint64 }

// Counts may be called at any time.
func (d *Dialer) Counts() Counts { return Counts{d.oneSided.Load(), d.linked.Load()} }

// Defaults of a Dialer; docs/transport.md has the measurements.
const (
	DefaultEager = 512 // where it could not be measured: headers alone
	DefaultSpin  = 100 * time.Microsecond
)

// domainKey: a domain is opened once for all sessions by one provider from one
// local address, and the caller's memory registered there once.
type domainKey struct{ provider, host string }

var _ transport.Dialer = (*Dialer)(nil)

// Register implements transport.Dialer. mem must be mapped memory outside the
// Go heap: libfabric keeps addresses in it across calls, which cgo does not
// allow for Go memory.
func (d *Dialer) Register(mem []byte) error {
	if err := d.regions.Add(mem); err != nil {
		return err
	}
	if err := d.link.Register(mem); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.mem = append(d.mu.mem, mem)
	return nil
}

// Dial implements transport.Dialer. Without a deadline in ctx it gives up after
// ten seconds. It returns once a one-sided read of the server's memory has
// succeeded. A reader needs to open no chunk: what it reads first goes over the
// link, and one-sided once the server has told where the chunk lies.
func (d *Dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := d.dial(ctx, addr, h, idle)
	if err != nil {
		return nil, transport.Welcome{}, fmt.Errorf("session with %s: %w", addr, err)
	}
	return c, w, nil
}

func (d *Dialer) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.Default()
}

// dialTimeout bounds what comes after the link's handshake.
const dialTimeout = 10 * time.Second

func (d *Dialer) dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	by, hostPort, err := ParseAddress(addr)
	if err != nil {
		return nil, transport.Welcome{}, err
	}
	d.regions.Seal()
	c := newConn(d, h.Mode, idle)
	link, w, err := d.link.Dial(ctx, "tcp://"+hostPort, h, c.linkIdle)
	if err != nil {
		return nil, w, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c.link, c.window = link.(tcp.Link), w.Window
	if err := c.attachBy(ctx, by, addr); err != nil {
		select {
		case <-link.Done():
		default:
			if ctx.Err() == nil && !d.Strict {
				d.log().Warn("no one-sided transfers with a server: its pages go over TCP", "addr", addr, "err", err)
				return link, w, nil
			}
		}
		c.discard()
		return nil, w, fmt.Errorf("setting up one-sided transfers: %w", err)
	}
	err = d.sessions.Add(c)
	go c.run()
	if err != nil {
		_ = c.Close()
		return nil, w, err
	}
	return c, w, nil
}

// domain opens the provider for sessions from a local address, or returns the
// one that is open.
func (d *Dialer) domain(k domainKey) (*domain, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.mu.domains[k]; o != nil {
		return o, nil
	}
	if d.mu.closed {
		return nil, transport.ErrClosed
	}
	o, err := openDomain(k.provider, k.host)
	if err != nil {
		return nil, err
	}
	for _, mem := range d.mu.mem {
		if err := o.local(mem); err != nil {
			return nil, errors.Join(err, o.close())
		}
	}
	if d.mu.domains == nil {
		d.mu.domains = make(map[domainKey]*domain)
	}
	d.mu.domains[k] = o
	return o, nil
}

// Close ends every session and returns when all requests have completed.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.mu.closed = true
	d.mu.Unlock()
	d.sessions.Close()
	errs := []error{d.link.Close()}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.mu.domains {
		errs = append(errs, o.close())
	}
	d.mu.domains = nil
	return errors.Join(errs...)
}

// attachBy attaches by the first provider that both sides have and whose endpoints
// reach each other. Each has its share of the time that ctx leaves.
func (c *conn) attachBy(ctx context.Context, by []string, addr string) error {
	var errs []error
	for i, provider := range by {
		err := c.attachIn(ctx, provider, addr, len(by)-i)
		if err == nil {
			if len(errs) > 0 {
				c.d.log().Info("one-sided transfers with a server not by its first choice", "addr", addr, "provider", provider, "err", errors.Join(errs...))
			}
			return nil
		}
		c.reset()
		errs = append(errs, fmt.Errorf("by %s: %w", provider, err))
		select {
		case <-ctx.Done():
			return errors.Join(errs...)
		case <-c.link.Done():
			return errors.Join(errs...)
		default:
		}
	}
	return errors.Join(errs...)
}

// attachIn attaches by one provider while so many are left to be tried.
func (c *conn) attachIn(ctx context.Context, provider, addr string, left int) error {
	if t, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(t)/time.Duration(left))
		defer cancel()
	}
	c.provider = provider
	if err := c.attach(ctx, provider); err != nil {
		return err
	}
	return c.setEager(ctx, provider+" "+addr)
}

// attach opens the client's endpoint, has the server open its own, and tries
// whether they can reach each other.
func (c *conn) attach(ctx context.Context, provider string) error {
	host := func(a net.Addr) string {
		h, _, err := net.SplitHostPort(a.String())
		if err != nil {
			return ""
		}
		return h
	}
	dom, err := c.d.domain(domainKey{provider, host(c.link.LocalAddr())})
	if err != nil {
		return err
	}
	if c.ep, err = dom.endpoint(); err != nil {
		return err
	}
	a := attach{provider: provider, host: host(c.link.RemoteAddr())}
	if !c.ep.sleeps() {
		b, err := newBell()
		if err != nil {
			return err
		}
		c.ep.ring(b, false)
		defer b.handedOver()
		a.bell = b.name()
	}
	if a.addr, err = c.ep.address(); err != nil {
		return err
	}
	answer, err := c.link.Extend(ctx, a.put())
	if err != nil {
		return err
	}
	s, err := parseAttached(answer)
	if err != nil {
		return err
	}
	if err := c.ep.connect(s.addr); err != nil {
		return err
	}
	if err := c.alloc(dom); err != nil {
		return err
	}
	return c.probe(ctx, &s)
}

// setEager measures what goes over the link, with the first session with a server
// by a provider.
func (c *conn) setEager(ctx context.Context, server string) error {
	if c.d.Eager != 0 {
		return nil
	}
	c.d.mu.Lock()
	n, ok := c.d.mu.eager[server]
	c.d.mu.Unlock()
	if !ok {
		var err error
		n, err = measureEager(ctx, [2]func(context.Context, int) error{
			func(ctx context.Context, n int) error {
				_, err := c.link.Extend(ctx, putEcho(n))
				return err
			},
			// It must end, whatever is left of the time: the memory is needed.
			func(_ context.Context, n int) error { return c.readProbe(ctx, c.heads[:n]) },
		})
		if err != nil {
			return err
		}
		c.d.mu.Lock()
		if c.d.mu.eager == nil {
			c.d.mu.eager = make(map[string]int)
		}
		c.d.mu.eager[server] = n
		c.d.mu.Unlock()
	}
	c.eager = n
	return nil
}

// probe reads the server's nonce. It is the first operation, and makes the
// connection where the provider needs one.
func (c *conn) probe(ctx context.Context, s *attached) error {
	mem := c.heads[:8:8]
	clear(mem)
	c.probed = s.probe
	if err := c.readProbe(ctx, mem); err != nil {
		return err
	}
	if want := le.AppendUint64(nil, s.nonce); !bytes.Equal(mem, want) {
		return fmt.Errorf("the first one-sided read gave %x, not %x: these endpoints are not of one session", mem, want)
	}
	return nil
}

// readProbe reads from the page that the server has for that, before the session
// begins.
func (c *conn) readProbe(ctx context.Context, mem []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.mu.ring.add()
	op.set(opRead, 0, 0, c.probed, 0)
	op.piece(mem)
	for ended := false; !ended; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("first one-sided read: %w", err)
		}
		if err := c.postLocked(); err != nil {
			return fmt.Errorf("first one-sided read: %w", err)
		}
		n, err := c.ep.poll(c.spin, time.Millisecond, false)
		if err != nil {
			return fmt.Errorf("first one-sided read: %w", err)
		}
		if n > 0 {
			if _, err := c.ep.end(0); err != nil {
				return fmt.Errorf("first one-sided read: %w", err)
			}
			c.mu.posted--
			ended = true
		}
	}
	return nil
}
