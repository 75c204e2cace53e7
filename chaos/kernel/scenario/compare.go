package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"dmps/internal/swapctl"
)

// compare swaps to a plain NBD device, one server over TCP, and to dmps by both
// front ends, in turn, with the same process, and prints what it saw. It judges
// nothing but that every word is right: emulated time is no measure but beside
// its like.
func compare(ctx context.Context, g *Guest) error {
	if err := compareDevice(ctx, "plain", func() (string, func() error, error) { return plainSwap(ctx, g) }, g); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		scheme
	}{{"none", single}, {"mirror:2", mirror2}, {"rs:2+1", rs21}} {
		c, err := newCluster(ctx, g, s.scheme)
		if err != nil {
			return err
		}
		for _, kind := range []string{"nbd", "ublk"} {
			if err := compareDevice(ctx, kind+" "+s.name, func() (string, func() error, error) {
				if err := c.startAttach(ctx, kind, "--swap"); err != nil {
					return "", nil, err
				}
				if err := until(ctx, time.Minute, "swapping", func() error { return c.swapped(ctx) }); err != nil {
					return "", nil, err
				}
				st, err := c.status(ctx)
				return st.Device, func() error { return errors.Join(c.printClient(ctx), c.detach(ctx)) }, err
			}, g); err != nil {
				return err
			}
		}
		if err := c.end(); err != nil {
			return err
		}
	}
	return compareDevice(ctx, "plain", func() (string, func() error, error) { return plainSwap(ctx, g) }, g)
}

const (
	probeMiB     = 48
	probeTouches = 1500

	probeLimitMiB = 16
)

// compareDevice measures one device that is swap space.
func compareDevice(ctx context.Context, name string, on func() (path string, off func() error, err error), g *Guest) error {
	_, off, err := on()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	dir, err := tight("hog", probeLimitMiB)
	if err != nil {
		return err
	}
	p, err := g.start("probe", dir, "/init", "probe", strconv.Itoa(probeMiB), strconv.Itoa(probeTouches), strconv.FormatUint(g.Seed, 10))
	if err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var r Probed
	out, err := os.ReadFile(p.log)
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err = errors.Join(err, os.Remove(p.log)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if r.OutMiB < 4 || r.InMiB < 4 || len(r.Faults) < 100 {
		return fmt.Errorf("%s: hardly anything was swapped: %+v", name, r)
	}
	fmt.Printf("compare %-14s out %5.1f MiB/s  in %5.1f MiB/s  fault p50 %5.2f ms p99 %6.2f ms (%d)\n",
		name, r.Out(), r.In(), r.Fault(0.5), r.Fault(0.99), len(r.Faults))
	return off()
}

// plainSwap is swap space on a plain NBD device.
func plainSwap(ctx context.Context, g *Guest) (string, func() error, error) {
	path, srv, err := plainDevice(ctx, g, plainTCP)
	if err != nil {
		return "", nil, err
	}
	return path, func() error {
		if err := swapctl.Off(path); err != nil {
			return err
		}
		err := disconnect(0)
		select {
		case <-srv.over: // with an error: its connection is gone
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		}
		return err
	}, swapctl.On(path, 0, true)
}
