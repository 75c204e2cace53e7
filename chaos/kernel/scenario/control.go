package scenario

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"dmps/internal/swapctl"
)

// control swaps to a plain NBD device, one server without any of what dmps
// does, and kills the server: the hog must suffer, or the other scenarios show
// nothing.
func control(ctx context.Context, g *Guest) error {
	path, srv, err := plainDevice(ctx, g, plainUnix)
	if err != nil {
		return err
	}
	if err := swapctl.On(path, 0, true); err != nil {
		return err
	}
	hog, err := g.startHog(hogMiB, hogLimitMiB)
	if err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "the hog's first turn", func() error {
		if hog.turns() < 2 {
			return errors.Join(hog.alive(), errors.New("not yet"))
		}
		return hog.alive()
	}); err != nil {
		return err
	}
	if err := g.kmsg.err(); err != nil {
		return fmt.Errorf("before anything was broken: %w", err)
	}
	if err := srv.signal(syscall.SIGKILL); err != nil {
		return err
	}
	// What it must come to: the hog is killed for a page that cannot be read,
	// or hangs for one.
	for turns := hog.turns(); ; turns = hog.turns() {
		select {
		case <-hog.over:
			fmt.Printf("as it must be, without dmps: the hog ended with %v; %v\n", hog.err, g.kmsg.err())
			return nil
		case <-time.After(20 * time.Second):
		}
		if hog.turns() == turns {
			fmt.Printf("as it must be, without dmps: the hog hangs; %v\n", g.kmsg.err())
			return nil
		}
		if ctx.Err() != nil {
			return errors.New("the hog goes on without the server that has its pages")
		}
	}
}
