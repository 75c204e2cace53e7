//go:build !fabric || !cgo

package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"dmps/transport"
	"dmps/transport/tcp"
)

// Built reports whether this binary has one-sided transfers (build tag fabric).
const Built = false

// errNotBuilt is what this package gives in a binary without libfabric.
var errNotBuilt = errors.New("this binary was built without libfabric: build it with CGO_ENABLED=1 and -tags fabric, or use a tcp:// address")

// Dialer in a binary without libfabric has the links alone: sessions of package
// tcp, with the same servers.
type Dialer struct {
	Eager  int
	Strict bool // Dial fails
	Log    *slog.Logger
	Spin   time.Duration

	link tcp.Dialer
}

var _ transport.Dialer = (*Dialer)(nil)

// Register implements transport.Dialer.
func (d *Dialer) Register(mem []byte) error { return d.link.Register(mem) }

// Dial implements transport.Dialer.
func (d *Dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	_, hostPort, err := ParseAddress(addr)
	if err == nil && d.Strict {
		err = errNotBuilt
	}
	if err != nil {
		return nil, transport.Welcome{}, fmt.Errorf("session with %s: %w", addr, err)
	}
	return d.link.Dial(ctx, "tcp://"+hostPort, h, idle)
}

// Close implements transport.Dialer.
func (d *Dialer) Close() error { return d.link.Close() }
