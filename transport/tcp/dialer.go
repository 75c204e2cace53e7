package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"dmps/transport"
)

// Dialer opens sessions over TCP. Addresses have the form tcp://host:port.
// The zero value is ready.
type Dialer struct {
	regions  transport.Regions
	sessions transport.Sessions[*conn]
}

var _ transport.Dialer = (*Dialer)(nil)

// Register implements transport.Dialer. TCP needs no registration; that it was
// done is checked all the same, so that what runs here runs over RDMA.
func (d *Dialer) Register(mem []byte) error { return d.regions.Add(mem) }

// Dial implements transport.Dialer. Without a deadline in ctx it gives up
// after ten seconds.
func (d *Dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := d.dial(ctx, addr, h, idle)
	if err != nil {
		return nil, transport.Welcome{}, fmt.Errorf("session with %s: %w", addr, err)
	}
	return c, w, nil
}

func (d *Dialer) dial(ctx context.Context, addr string, h transport.Hello, idle func()) (*conn, transport.Welcome, error) {
	var none transport.Welcome
	host, ok := strings.CutPrefix(addr, "tcp://")
	if !ok {
		return nil, none, errors.New("address must be tcp://host:port")
	}
	hello, err := encodeHello(h)
	if err != nil {
		return nil, none, err
	}
	d.regions.Seal()
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	var nd net.Dialer
	nc, err := nd.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, none, err
	}
	// A failure leaves a slower connection, not a wrong one.
	_ = nc.(*net.TCPConn).SetWriteBuffer(socketBuffer)
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	_, err = nc.Write(hello)
	var w transport.Welcome
	if err == nil {
		w, err = decodeWelcome(nc, versionOf(h))
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, none, err
	}
	c, err := newConn(nc, &d.regions, w, idle)
	if err != nil {
		nc.Close()
		return nil, none, err
	}
	c.gone = d.sessions.Remove
	err = d.sessions.Add(c)
	go c.read()
	if err != nil {
		_ = c.Close()
		return nil, none, err
	}
	return c, w, nil
}

// Close ends every session and returns when all requests have completed.
func (d *Dialer) Close() error {
	d.sessions.Close()
	return nil
}
