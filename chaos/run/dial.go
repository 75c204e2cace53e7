package run

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"dmps/internal/nbdclient"
)

// nbdDevice is a connection to one of the clients.
type nbdDevice struct {
	*nbdclient.Conn
	replaced, closed atomic.Bool
}

func (d *nbdDevice) Close() error {
	d.closed.Store(true)
	return d.Conn.Close()
}

func (d *nbdDevice) Trim(off, n int64) error { return d.Conn.Trim(off, uint32(n)) }

func (d *nbdDevice) Replaced() bool { return d.replaced.Load() }

func (d *nbdDevice) Broken(err error) bool {
	var errno nbdclient.Errno
	// A client that ends, or was replaced, answers what it cannot do any more.
	return d.Replaced() || !errors.As(err, &errno) || errno == nbdclient.ESHUTDOWN
}

// Dial implements Target. While there are two clients it turns to them in turns: the
// one that was replaced must be asked too.
func (p *Processes) Dial(ctx context.Context) (Device, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	p.mu.Lock()
	addr, second := p.nbd, p.second
	p.dials++
	if second != nil && p.dials%2 == 0 {
		addr = second.nbd
	}
	p.mu.Unlock()
	c, err := nbdclient.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	d := &nbdDevice{Conn: c}
	p.mu.Lock()
	defer p.mu.Unlock()
	d.replaced.Store(p.second != nil && addr == p.nbd)
	p.devices = append(slices.DeleteFunc(p.devices, func(d *nbdDevice) bool { return d.closed.Load() }), d)
	return d, nil
}
