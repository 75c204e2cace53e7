package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"dmps/client/nbddev"
	"dmps/internal/swapctl"
)

// control swaps to a plain NBD device, one server without any of what dmps
// does, and kills the server: the hog must suffer, or the other scenarios show
// nothing.
func control(ctx context.Context, g *Guest) error {
	const size = 128 << 20
	srv, err := g.start("plain", "", "/init", "plain", "0", fmt.Sprint(size))
	if err != nil {
		return err
	}
	const path = "/dev/nbd0"
	if err := until(ctx, 20*time.Second, "the plain device", func() error {
		if err := srv.alive(); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		n, err := blockSize64(f)
		if err == nil && n != size {
			err = fmt.Errorf("it has %d bytes", n)
		}
		if err == nil {
			_, err = swapctl.Format(f, size, "control", false)
		}
		return errors.Join(err, f.Close())
	}); err != nil {
		return err
	}
	if err := swapctl.On(path, 0); err != nil {
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

// Plain serves a plain NBD device from this process's memory, and nothing else:
// what is there without dmps.
func Plain(ctx context.Context, index int, size int64) error {
	d, err := nbddev.OpenDriver()
	if err != nil {
		return err
	}
	kernel, ours, err := nbddev.Pair()
	if err != nil {
		return err
	}
	if _, err := d.Connect(nbddev.Connection{
		Index: index, Sockets: []int{int(kernel.Fd())}, Size: size, BlockSize: page, Flags: plainFlags,
		Timeout: 5 * time.Second,
	}); err != nil {
		return err
	}
	if err := errors.Join(kernel.Close(), d.Close()); err != nil {
		return err
	}
	return servePlain(ours, make([]byte, size))
}
