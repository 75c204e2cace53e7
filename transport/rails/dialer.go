package rails

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"dmps/transport"
)

// Dialer opens sessions with servers of several addresses over another Dialer.
// With one address it hands out that one's Conn.
type Dialer struct {
	// Dialer opens each rail, and is closed with this one.
	transport.Dialer
	// Retire is the address at which a short session of no request can be opened
	// at least cost, where that is not the rail's own. nil: it is.
	Retire func(addr string) string
	Log    *slog.Logger // hears of rails that come and go; nil: slog.Default

	sessions transport.Sessions[*conn]

	mu struct {
		sync.Mutex
		first map[string]int // which address answered last, by the server's address
	}
}

var _ transport.Dialer = (*Dialer)(nil)

// Limits of one attempt to reach an address while there are others: ten times
// what a handshake takes that waits for an older session to end.
const tryFor = 2 * time.Second

func (d *Dialer) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.Default()
}

// Dial implements transport.Dialer. It returns with the first rail; the others
// come behind. The Window of the Welcome is the first rail's, that of the Conn the
// sum of those that are up.
func (d *Dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	addrs, err := Split(addr)
	if err != nil {
		return nil, transport.Welcome{}, err
	}
	if len(addrs) == 1 {
		return d.Dialer.Dial(ctx, addr, h, idle)
	}
	owner := h.Mode == transport.ModeOwner
	for owner && h.Rail.Session == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		h.Rail.Session = binary.LittleEndian.Uint64(b[:])
	}
	c := newConn(d, addrs, h, idle)
	d.mu.Lock()
	at := d.mu.first[addr]
	d.mu.Unlock()
	var errs []error
	for n := range addrs {
		i := (at + n) % len(addrs)
		if owner {
			h.Rail.Index, h.Rail.Attempt = uint8(i), 1
		}
		in, w, err := d.try(ctx, addrs[i], len(addrs)-n, h, c.idle)
		if err == nil {
			d.mu.Lock()
			if d.mu.first == nil {
				d.mu.first = make(map[string]int)
			}
			d.mu.first[addr] = i
			d.mu.Unlock()
			if err := d.begin(c, i, in, w); err != nil {
				return nil, transport.Welcome{}, err
			}
			return c, w, nil
		}
		errs = append(errs, err)
		if errors.Is(err, transport.ErrStaleEpoch) || errors.Is(err, transport.ErrIncarnation) || ctx.Err() != nil {
			return nil, transport.Welcome{}, err
		}
	}
	return nil, transport.Welcome{}, unreached(errs)
}

// try dials one of n addresses that are left.
func (d *Dialer) try(ctx context.Context, addr string, n int, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	limit := tryFor
	if t, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(t)/time.Duration(n))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return d.Dialer.Dial(ctx, addr, h, idle)
}

// unreached is why no address answered. Refused connections say that the server's
// process is gone only if all addresses refuse.
func unreached(errs []error) error {
	for i, err := range errs {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			rest := append(append([]error(nil), errs[:i]...), errs[i+1:]...)
			return fmt.Errorf("%w; the other addresses: %v", err, rest)
		}
	}
	return errors.Join(errs...)
}

// begin starts a session whose first rail is there.
func (d *Dialer) begin(c *conn, i int, in transport.Conn, w transport.Welcome) error {
	if err := d.sessions.Add(c); err != nil {
		_ = in.Close()
		return err
	}
	c.begin(i, in, w)
	return nil
}

// Close implements transport.Dialer.
func (d *Dialer) Close() error {
	d.sessions.Close()
	return d.Dialer.Close()
}
