package scenario

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dmps/internal/swapctl"
)

// Sizes of the hogs: a cgroup with 10 MiB swaps out most of 28.
const (
	hogMiB      = 28
	hogLimitMiB = 10
)

// swapping is a cluster whose device is swap space, with a hog in it.
type swapping struct {
	*cluster
	hog   *hogging
	start map[string]int64
}

// swapTo makes all of it, and waits until the hog is through its memory once.
func swapTo(ctx context.Context, g *Guest, device string, s scheme) (*swapping, error) {
	c, err := newCluster(ctx, g, s)
	if err != nil {
		return nil, err
	}
	if err := c.startAttach(ctx, device, "--swap"); err != nil {
		return nil, err
	}
	if err := until(ctx, time.Minute, "swapping", func() error { return c.swapped(ctx) }); err != nil {
		return nil, err
	}
	w := &swapping{cluster: c}
	if w.start, err = vmstat("pswpin", "pswpout"); err != nil {
		return nil, err
	}
	if w.hog, err = g.startHog(hogMiB, hogLimitMiB); err != nil {
		return nil, err
	}
	return w, w.turn(ctx, 1)
}

// swapped is nil when the kernel swaps to the device.
func (c *cluster) swapped(ctx context.Context) error {
	if err := c.attach.alive(); err != nil {
		return err
	}
	st, err := c.status(ctx)
	if err != nil {
		return err
	}
	space, err := swapctl.Find(st.Device)
	if err == nil && space == nil {
		err = fmt.Errorf("%s is not swap space", st.Device)
	}
	if err == nil {
		err = unthrottled(st.Device)
	}
	return err
}

// unthrottled is nil when the kernel lets kswapd write to a device whatever its
// reads take.
func unthrottled(device string) error {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "queue/wbt_lat_usec"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has no such thing
	}
	if s := strings.TrimSpace(string(b)); err == nil && s != "0" {
		err = fmt.Errorf("writes to %s are throttled: wbt_lat_usec is %s", device, s)
	}
	return err
}

// turn waits until the hog has been through its memory n more times.
func (w *swapping) turn(ctx context.Context, n int) error {
	from := w.hog.turns()
	return until(ctx, 5*time.Minute, "the hog's next turns", func() error {
		if err := errors.Join(w.hog.alive(), w.attach.alive(), w.g.kmsg.err(), w.inMemory()); err != nil {
			return err
		}
		if t := w.hog.turns(); t < from+n {
			return fmt.Errorf("turn %d of %d", t, from+n)
		}
		return nil
	})
}

// finish ends the hog and the device, and reports what went through it.
func (w *swapping) finish(ctx context.Context) error {
	if err := w.hog.finish(ctx); err != nil {
		return err
	}
	took := time.Since(w.hog.began)
	n, err := vmstat("pswpin", "pswpout")
	if err != nil {
		return err
	}
	in, out := n["pswpin"]-w.start["pswpin"], n["pswpout"]-w.start["pswpout"]
	fmt.Printf("swapped in %d MiB and out %d MiB in %.0f s, %d turns of the hog\n", in>>8, out>>8, took.Seconds(), w.hog.turns())
	if err := errors.Join(w.printClient(ctx), printCPU()); err != nil {
		return err
	}
	if in < 4<<8 || out < 4<<8 {
		return errors.New("hardly anything was swapped: it shows nothing")
	}
	if err := w.detach(ctx); err != nil {
		return err
	}
	all, err := swapctl.Spaces()
	if err == nil && len(all) > 0 {
		err = fmt.Errorf("swap space is left: %v", all)
	}
	return err
}

// printClient prints what a client has counted since it was started.
func (c *cluster) printClient(ctx context.Context) error {
	st, err := c.status(ctx)
	if err != nil {
		return err
	}
	k := st.Report.Counters
	fmt.Printf("the client: page-ins of %d pages in %d transfers, %d hedged (%d won), %d reconstructed, p50 %.1f ms, p99 %.1f ms; page-outs of %d pages in %d batches, p50 %.1f ms, p99 %.1f ms\n",
		k["page_in_pages"], k["page_in_transfers"], k["hedged_reads"], k["hedge_wins"], k["degraded_reads"], float64(k["read_p50_ns"])/1e6, float64(k["read_p99_ns"])/1e6,
		k["page_out_pages"], k["page_out_batches"], float64(k["write_p50_ns"])/1e6, float64(k["write_p99_ns"])/1e6)
	return nil
}

// killM kills M servers under the hog, has them replaced and rebuilt, and kills
// M others.
func killM(device string, s scheme) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, device, s)
		if err != nil {
			return err
		}
		if err := w.carried(ctx); err != nil {
			return err
		}
		for round := range 2 {
			var which []int
			for i := range s.m {
				which = append(which, (round*s.m+i)%s.servers)
			}
			fmt.Printf("killing servers %v\n", which)
			if err := w.lose(which...); err != nil {
				return err
			}
			if err := w.turn(ctx, 1); err != nil {
				return err
			}
			if err := w.replace(which...); err != nil {
				return err
			}
			if err := w.heal(ctx); err != nil {
				return err
			}
			fmt.Println("all redundancy is back")
			if err := w.turn(ctx, 1); err != nil {
				return err
			}
			if err := w.carried(ctx); err != nil {
				return err
			}
		}
		return w.finish(ctx)
	}
}

// restart ends the client under the hog, by force and in order, and starts it
// again.
func restart(device string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, device, mirror2)
		if err != nil {
			return err
		}
		for i, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			// Whatever the device is: it is found by the volume.
			again := []string{device, "auto"}[i]
			fmt.Printf("%v to the client\n", s)
			began := time.Now()
			if err := w.attach.signal(s); err != nil {
				return err
			}
			select {
			case <-w.attach.over:
			case <-time.After(time.Minute):
				return fmt.Errorf("the client does not end: %s", w.attach.tail(1000))
			}
			if err := w.startAttach(ctx, again, "--swap"); err != nil {
				return err
			}
			fmt.Printf("the client was back after %.1f s\n", time.Since(began).Seconds())
			if err := w.turn(ctx, 1); err != nil {
				return err
			}
		}
		return w.finish(ctx)
	}
}

// freeze stops all memory servers for ten seconds.
func freeze(device string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, device, rs21)
		if err != nil {
			return err
		}
		for _, s := range w.servers {
			if err := s.signal(syscall.SIGSTOP); err != nil {
				return err
			}
		}
		time.Sleep(10 * time.Second)
		for _, s := range w.servers {
			if err := s.signal(syscall.SIGCONT); err != nil {
				return err
			}
		}
		if err := w.turn(ctx, 2); err != nil {
			return err
		}
		if err := w.heal(ctx); err != nil {
			return err
		}
		return w.finish(ctx)
	}
}

// metaGone takes the metadata away, loses a server meanwhile, and brings the
// metadata back.
func metaGone(device string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, device, rs21)
		if err != nil {
			return err
		}
		if err := w.meta.signal(syscall.SIGKILL); err != nil {
			return err
		}
		if err := w.turn(ctx, 1); err != nil {
			return err
		}
		if err := w.lose(0); err != nil {
			return err
		}
		if err := w.turn(ctx, 1); err != nil {
			return err
		}
		if err := w.startMeta(); err != nil {
			return err
		}
		if err := w.replace(0); err != nil {
			return err
		}
		if err := w.heal(ctx); err != nil {
			return err
		}
		if err := w.turn(ctx, 1); err != nil {
			return err
		}
		return w.finish(ctx)
	}
}
