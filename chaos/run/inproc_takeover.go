package run

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"dmps/chaos/plan"
	"dmps/client"
)

// Dial implements Target. While there are two clients it turns to them in turns.
func (p *InProcess) Dial(context.Context) (Device, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials++
	if p.second != nil && p.dials%2 == 0 {
		return &volumeDevice{Volume: p.second, p: p}, nil
	}
	if p.volume == nil {
		return nil, errors.New("the client is down")
	}
	return &volumeDevice{Volume: p.volume, p: p}, nil
}

// volumeDevice is a worker's use of one of the clients.
type volumeDevice struct {
	*client.Volume
	p      *InProcess
	closed atomic.Bool
}

func (d *volumeDevice) Close() error { d.closed.Store(true); return nil }

func (d *volumeDevice) Replaced() bool {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	return d.Volume != d.p.second && (d.p.taking || d.Volume != d.p.volume)
}

func (d *volumeDevice) Broken(err error) bool {
	return errors.Is(err, client.ErrClosed) || d.Replaced()
}

// takeover cuts the client off, with some servers, and has another one take the
// volume. At the end the network is whole, and the first must notice.
func (p *InProcess) takeover(ctx context.Context, f plan.Fault) (func(context.Context) error, error) {
	p.mu.Lock()
	first := p.volume
	p.taking = true
	p.mu.Unlock()
	whole, err := cutAll(p.net, f.Cuts(p.cfg.Plan.Servers))
	if err != nil {
		return nil, err
	}
	// It may take longer than the fault lasts.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeLimit)
	attached := make(chan error, 1)
	go func() {
		v, err := p.attachAs(ctx, plan.Second)
		p.mu.Lock()
		p.second = v
		p.mu.Unlock()
		attached <- err
	}()
	return func(ctx context.Context) error {
		err := <-attached
		cancel()
		whole()
		if err == nil {
			err = fenced(ctx, first)
		} else if p.cfg.Plan.Bear > p.cfg.Plan.Redundancy.M {
			err = nil
		}
		p.mu.Lock()
		second := p.second
		p.second, p.taking = nil, false
		p.mu.Unlock()
		return errors.Join(err, p.detach(), leave(second), p.attach(ctx))
	}, nil
}

// fenced waits until a client knows that it was replaced.
func fenced(ctx context.Context, v *client.Volume) error {
	ctx, cancel := context.WithTimeout(ctx, yieldLimit)
	defer cancel()
	for v != nil && !errors.Is(v.Flush(), client.ErrFenced) {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the client that was replaced does not notice: %w", err)
		}
	}
	return nil
}
