package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/internal/swapctl"
)

// pressure has the whole machine run out of memory, not only a cgroup: a hog
// that takes all that is available and half of the swap space. The client must
// not grow meanwhile, though all that it answers is asked for.
func pressure(device string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		c, err := newCluster(ctx, g, mirror2)
		if err != nil {
			return err
		}
		if err := c.startAttach(ctx, device, "--swap"); err != nil {
			return err
		}
		if err := until(ctx, time.Minute, "swapping", func() error { return c.swapped(ctx) }); err != nil {
			return err
		}
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		fit, err := swapctl.Measure(st.Device)
		if err != nil {
			return err
		}
		w := &swapping{cluster: c}
		if w.start, err = vmstat("pswpin", "pswpout"); err != nil {
			return err
		}
		// As much as is available, and half of the volume.
		if w.hog, err = g.startHog(int(fit.Available>>20)+c.scheme.volumeMiB/2, 0); err != nil {
			return err
		}
		// From the beginning, as whoever watches a client does: the answers take memory of a
		// client that has none to spare.
		asked := c.askAll(ctx)
		if err := w.turn(ctx, 1); err != nil {
			return err
		}
		first, err := c.footprint(ctx)
		if err != nil {
			return err
		}
		most := first
		for end := time.Now().Add(max(g.Duration, 30*time.Second)); time.Now().Before(end); {
			if err := w.turn(ctx, 1); err != nil {
				return err
			}
			now, err := c.footprint(ctx)
			if err != nil {
				return err
			}
			most = most.max(now)
		}
		if err := asked.end(); err != nil {
			return err
		}
		fmt.Printf("the client after the first turn: %v; at most: %v\n", first, most)
		if most.grewFrom(first) {
			err = errors.New("the client grew")
		}
		if ferr := w.finish(ctx); ferr != nil {
			return ferr
		}
		return err
	}
}
