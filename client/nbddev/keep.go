package nbddev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"dmps/client/nbd"
)

// How often a socket is offered to a kernel that has no use for it: it may not
// have noticed yet that the one before is dead, or cannot just now. Each time
// that it did not help the pause is twice as long.
const (
	renewFirst = 100 * time.Millisecond
	renewLast  = 5 * time.Second
)

// ErrGone: the device was disconnected, or is somebody else's now.
var ErrGone = errors.New("the device was taken away")

// pause is how long to wait before the next attempt, when the last pause was of
// that length and what was done since took so long. 0: there was none.
func pause(last, took time.Duration) time.Duration {
	if last == 0 || took > last {
		return renewFirst
	}
	return min(2*last, renewLast)
}

// keep serves one connection, and the next one in its place whenever the kernel
// has given it up, until Close. Without a connection it begins with a new one.
func (f *Front) keep(ours net.Conn) {
	var wait time.Duration
	said := "" // the last error that was logged
	for {
		began := time.Now()
		var err error
		if ours == nil {
			ours, err = f.renew()
		}
		switch {
		case f.ctx.Err() != nil && ours == nil:
			return
		case errors.Is(err, ErrGone):
			f.fail(err)
			return
		case err != nil:
			if err.Error() != said {
				f.log.Error("offering the kernel a new connection failed", "device", f.Path(), "error", err)
			}
			said = err.Error()
		default:
			// Read to its end before there is a new one: what was sent on it
			// is older than anything on the next.
			err := f.serve(ours)
			ours = nil
			select {
			case <-f.placed:
			case <-f.ctx.Done():
			}
			if f.ctx.Err() != nil {
				return
			}
			if err != nil || time.Since(began) > renewFirst {
				f.log.Warn("the kernel has given up a connection", "device", f.Path(), "error", err)
			}
			said = ""
		}
		wait = pause(wait, time.Since(began))
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(max(0, wait-time.Since(began))):
		}
	}
}

// fail ends serving: the device is not there any more.
func (f *Front) fail(err error) {
	f.mu.Lock()
	first := f.err == nil
	if first {
		f.err = err
	}
	f.mu.Unlock()
	if first {
		f.log.Error("serving has ended", "device", f.Path(), "error", err)
		close(f.failed)
	}
}

// Failed is closed when the device was taken away; Err says how. Close then.
func (f *Front) Failed() <-chan struct{} { return f.failed }

// Err is why Failed is closed, or nil.
func (f *Front) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// serve serves one connection to its end.
func (f *Front) serve(nc net.Conn) error {
	f.mu.Lock()
	f.live[nc] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.live, nc)
		f.mu.Unlock()
	}()
	return nbd.ServeTransmission(f.ctx, nc, f.cfg.Export, nbd.Config{Log: f.log, StallTimeout: -1})
}

// renew gives the kernel a socket in the place of a dead one. When it has none
// that is dead, the connection that is returned ends at once. Errors: ErrGone.
func (f *Front) renew() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := context.Cause(f.ctx); err != nil {
		return nil, err
	}
	ours, err := f.ours()
	if err != nil {
		return nil, err
	}
	if !ours {
		return nil, fmt.Errorf("%s is not connected to this volume: %w", f.Path(), ErrGone)
	}
	kernel, served, err := f.on.pair()
	if err != nil {
		return nil, err
	}
	defer kernel.Close() // the kernel has its own reference, or has none
	c := f.conn
	c.Sockets = []int{int(kernel.Fd())}
	if err := f.driver.Reconfigure(c); err != nil {
		return nil, errors.Join(err, served.Close())
	}
	return served, nil
}
