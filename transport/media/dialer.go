// Package media is all media of the network behind one transport.Dialer: the
// scheme of an address says which one a session takes. Of a server with several
// addresses it uses all (package rails).
package media

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/rails"
	"dmps/transport/tcp"
)

// Dialer opens sessions with servers at tcp://host:port (package tcp) and at
// fabric+PROVIDER://host:port (package fabric, which takes TCP where one of both
// sides lacks the provider); with commas between them at all addresses of one
// server. The zero value is ready.
type Dialer struct {
	Log *slog.Logger // is told of that; nil: slog.Default

	once  sync.Once
	one   one
	rails rails.Dialer
}

// one opens sessions at one address.
type one struct {
	tcp    tcp.Dialer
	fabric fabric.Dialer
}

var (
	_ transport.Dialer = (*Dialer)(nil)
	_ transport.Dialer = (*one)(nil)
)

// Register implements transport.Dialer. What package fabric asks of mem holds.
func (d *Dialer) Register(mem []byte) error { return d.one.Register(mem) }

// Dial implements transport.Dialer.
func (d *Dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	d.prepare()
	return d.rails.Dial(ctx, addr, h, idle)
}

func (d *Dialer) prepare() {
	d.once.Do(func() {
		d.one.fabric.Log = d.Log
		d.rails.Dialer, d.rails.Retire, d.rails.Log = &d.one, link, d.Log
	})
}

// link is the address at which a server has sessions without an endpoint.
func link(addr string) string {
	if _, hostPort, ok := strings.Cut(addr, "://"); ok {
		return "tcp://" + hostPort
	}
	return addr
}

// Close implements transport.Dialer.
func (d *Dialer) Close() error {
	d.prepare()
	return d.rails.Close()
}

// Register implements transport.Dialer.
func (d *one) Register(mem []byte) error {
	return errors.Join(d.tcp.Register(mem), d.fabric.Register(mem))
}

// Dial implements transport.Dialer.
func (d *one) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	if fabric.IsAddress(addr) {
		return d.fabric.Dial(ctx, addr, h, idle)
	}
	return d.tcp.Dial(ctx, addr, h, idle)
}

// Close implements transport.Dialer.
func (d *one) Close() error { return errors.Join(d.tcp.Close(), d.fabric.Close()) }
