//go:build !fabric || !cgo

package fabric

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/transport"
)

// Built reports whether this binary has one-sided transfers (build tag fabric).
const Built = false

// errNotBuilt is what this package gives in a binary without libfabric.
var errNotBuilt = errors.New("this binary was built without libfabric: build it with CGO_ENABLED=1 and -tags fabric, or use a tcp:// address")

// Dialer in a binary without libfabric dials nothing.
type Dialer struct {
	Eager int
	Spin  time.Duration

	regions transport.Regions
}

var _ transport.Dialer = (*Dialer)(nil)

// Register implements transport.Dialer.
func (d *Dialer) Register(mem []byte) error { return d.regions.Add(mem) }

// Dial implements transport.Dialer: it fails.
func (d *Dialer) Dial(_ context.Context, addr string, _ transport.Hello, _ func()) (transport.Conn, transport.Welcome, error) {
	_, _, err := ParseAddress(addr)
	if err == nil {
		err = errNotBuilt
	}
	return nil, transport.Welcome{}, fmt.Errorf("session with %s: %w", addr, err)
}

// Close implements transport.Dialer.
func (d *Dialer) Close() error { return nil }
