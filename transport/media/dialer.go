// Package media is all media of the network behind one transport.Dialer: the
// scheme of an address says which one a session takes.
package media

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/tcp"
)

// Dialer opens sessions with servers at tcp://host:port (package tcp) and at
// fabric+PROVIDER://host:port (package fabric, which takes TCP where one of both
// sides lacks the provider). The zero value is ready.
type Dialer struct {
	Log *slog.Logger // is told of that; nil: slog.Default

	tcp    tcp.Dialer
	fabric fabric.Dialer
	once   sync.Once
}

var _ transport.Dialer = (*Dialer)(nil)

// Register implements transport.Dialer. What package fabric asks of mem holds.
func (d *Dialer) Register(mem []byte) error {
	return errors.Join(d.tcp.Register(mem), d.fabric.Register(mem))
}

// Dial implements transport.Dialer.
func (d *Dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	if fabric.IsAddress(addr) {
		d.once.Do(func() { d.fabric.Log = d.Log })
		return d.fabric.Dial(ctx, addr, h, idle)
	}
	return d.tcp.Dial(ctx, addr, h, idle)
}

// Close implements transport.Dialer.
func (d *Dialer) Close() error { return errors.Join(d.tcp.Close(), d.fabric.Close()) }
