package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"dmps/internal/swapctl"
)

// pressure has the whole machine run out of memory, not only a cgroup: a hog
// that takes all that is available and half of the swap space. The client must
// not grow meanwhile.
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
		if err := w.turn(ctx, 1); err != nil {
			return err
		}
		first, err := c.footprint()
		if err != nil {
			return err
		}
		most := first
		for end := time.Now().Add(max(g.Duration, 30*time.Second)); time.Now().Before(end); {
			if err := w.turn(ctx, 1); err != nil {
				return err
			}
			now, err := c.footprint()
			if err != nil {
				return err
			}
			most = most.max(now)
		}
		fmt.Printf("the client had %d KiB resident and %d KiB of address space after the first turn, %d and %d at most\n",
			first.resident, first.data, most.resident, most.data)
		if most.resident > first.resident+1024 || most.data > first.data+1024 {
			err = errors.New("the client grew")
		}
		if ferr := w.finish(ctx); ferr != nil {
			return ferr
		}
		return err
	}
}

// footprint is the memory of a process, KiB: proc_pid_status(5).
type footprint struct{ resident, data int }

func (f footprint) max(g footprint) footprint {
	return footprint{max(f.resident, g.resident), max(f.data, g.data)}
}

func (c *cluster) footprint() (footprint, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.attach.cmd.Process.Pid))
	if err != nil {
		return footprint{}, fmt.Errorf("the client's memory: %w", err)
	}
	var f footprint
	for line := range strings.Lines(string(b)) {
		name, v, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB"))) // others are no numbers
		switch name {
		case "VmRSS":
			f.resident = n
		case "VmData":
			f.data = n
		}
	}
	return f, nil
}
