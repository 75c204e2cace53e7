package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dmps/client/hostdev"
	"dmps/internal/swapctl"
)

// another is a volume beside the one that is swapped to, and another cluster, whose
// volume has the same name as that.
const (
	another      = "other"
	anotherURL   = "127.0.0.1:7210"
	anotherAdmin = "127.0.0.1:9820"
)

var roomy = scheme{redundancy: "mirror:2", servers: 3, m: 1, volumeMiB: 64, serverMiB: 88}

// ask is an attach that must be refused while the device of a volume waits, with
// that volume's pages behind it.
type ask struct {
	meta, volume, device string
	says                 string // what it is refused with
}

// asks are those about a device that waits at path.
func asks(kind, path string) []ask {
	other := map[string]string{"nbd": "ublk", "ublk": "nbd"}[kind]
	prefix := strings.TrimRight(path, "0123456789")
	taken := map[string]string{"nbd": "the device is in use", "ublk": "belongs to something else"}[kind]
	return []ask{
		{metaURL, volume, prefix + "1", "the kernel waits for this volume at " + path},
		{metaURL, volume, prefix + "3", "the kernel waits for this volume at " + path},
		{metaURL, volume, other, "the kernel waits for this volume at " + path},
		{metaURL, another, path, taken},
		{anotherURL, volume, path, taken},
	}
}

// second has the device of a volume wait for its client, with pages in it, and
// attaches it as another one, other volumes as it, and what else was seen to lose
// all that is swapped out.
func second(kind string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, kind, roomy)
		if err != nil {
			return err
		}
		if err := w.others(ctx); err != nil {
			return err
		}
		st, err := w.status(ctx)
		if err != nil {
			return err
		}
		if err := refused(ctx, ask{metaURL, volume, kind, "runs already"}); err != nil {
			return err
		}
		if err := w.attach.signal(syscall.SIGKILL); err != nil {
			return err
		}
		before, err := hostdev.List()
		if err != nil {
			return err
		}
		for _, a := range asks(kind, st.Device) {
			if err := refused(ctx, a); err != nil {
				return err
			}
			after, err := hostdev.List()
			if err != nil {
				return err
			}
			if !reflect.DeepEqual(before, after) {
				return fmt.Errorf("%+v: the devices were %v and are %v", a, before, after)
			}
			if spaces, err := swapctl.Spaces(); err != nil || len(spaces) != 1 || spaces[0].Path != st.Device {
				return errors.Join(fmt.Errorf("%+v: swap spaces %v", a, spaces), err)
			}
		}
		// A volume of the same name of another cluster gets a device of its own.
		if err := w.elsewhere(ctx, st.Device); err != nil {
			return err
		}
		if err := w.startAttach(ctx, "auto", "--swap"); err != nil {
			return err
		}
		if err := w.turn(ctx, 1); err != nil {
			return err
		}
		if err := w.used(ctx, kind); err != nil {
			return err
		}
		return w.finish(ctx)
	}
}

// others makes another volume, and another cluster with a volume of the same name.
func (w *swapping) others(ctx context.Context) error {
	if _, err := w.g.start("meta2", "", dmps, "meta", "--dir", "/run/meta2", "--api", anotherURL, "--raft", "127.0.0.1:7211", "--protect"); err != nil {
		return err
	}
	if _, err := w.g.start("server2", "", dmps, "--meta", anotherURL, "server", "--id", "x0", "--memory", "40MiB", "--listen", "127.0.0.1:7401",
		"--protect", "--low-memory", "0", "--pressure", "0", "--care=false", "--heap-limit", "48MiB"); err != nil {
		return err
	}
	for _, v := range [][]string{{metaURL, another, "mirror:2"}, {anotherURL, volume, "none"}} {
		if err := until(ctx, time.Minute, "creating volume "+v[1], func() error {
			_, err := output(ctx, dmps, "--meta", v[0], "volume", "create", v[1], "--redundancy", v[2], "--size", "16MiB", "--failure-domain", "server")
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// attach is the command line of an ask.
func (a ask) attach() []string {
	return []string{dmps, "--meta", a.meta, "attach", a.volume, "--device", a.device, "--swap", "--admin", anotherAdmin,
		"--arena", "16MiB", "--heap-limit", "48MiB", "--scrub-every", "0"}
}

// refused is nil when an attach is refused with the words that are due.
func refused(ctx context.Context, a ask) error {
	began := time.Now()
	_, err := output(ctx, a.attach()...)
	switch {
	case err == nil:
		return fmt.Errorf("%+v was accepted", a)
	case !strings.Contains(err.Error(), a.says):
		return fmt.Errorf("%+v is refused with other words: %w", a, err)
	}
	fmt.Printf("%s of %s as %s: refused after %.1f s\n", a.volume, a.meta, a.device, time.Since(began).Seconds())
	return nil
}

// elsewhere attaches the other cluster's volume, and detaches it.
func (w *swapping) elsewhere(ctx context.Context, path string) error {
	a := ask{meta: anotherURL, volume: volume, device: "auto"}
	p, err := w.g.start("attach2", "", a.attach()...)
	if err != nil {
		return err
	}
	if err := until(ctx, backPatience, "attaching the volume of another cluster", func() error {
		if err := p.alive(); err != nil {
			return err
		}
		spaces, err := swapctl.Spaces()
		if err != nil {
			return err
		}
		if len(spaces) != 2 || !slices.ContainsFunc(spaces, func(s swapctl.Space) bool { return s.Path == path }) {
			return fmt.Errorf("swap spaces %v", spaces)
		}
		return nil
	}); err != nil {
		return err
	}
	if _, err := output(ctx, dmps, "--meta", anotherURL, "detach", volume, "--yes", "--admin", "http://"+anotherAdmin); err != nil {
		return err
	}
	return p.wait(ctx)
}

// used asks for swap on a device that somebody uses.
func (w *swapping) used(ctx context.Context, kind string) error {
	a := ask{meta: metaURL, volume: another, device: kind, says: "somebody uses it"}
	argv := slices.DeleteFunc(a.attach(), func(s string) bool { return s == "--swap" })
	p, err := w.g.start("attach3", "", argv...)
	if err != nil {
		return err
	}
	var st attachStatus
	if err := until(ctx, time.Minute, "attaching another volume", func() error {
		if err := p.alive(); err != nil {
			return err
		}
		if err := get(ctx, "http://"+anotherAdmin+"/status", &st); err != nil {
			return err
		}
		if st.Device == "" {
			return errors.New("no device yet")
		}
		return nil
	}); err != nil {
		return err
	}
	f, err := os.OpenFile(st.Device, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("using %s: %w", st.Device, err)
	}
	defer f.Close() // again, after an error
	if _, err := output(ctx, dmps, "--meta", metaURL, "detach", another, "--yes", "--admin", "http://"+anotherAdmin); err == nil || !strings.Contains(err.Error(), "in use") {
		return fmt.Errorf("detach from a device in use: %v", err)
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := refused(ctx, a); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("using %s: %w", st.Device, err)
	}
	if p, err = w.g.start("attach3", "", a.attach()...); err != nil {
		return err
	}
	if err := until(ctx, backPatience, "swapping to another volume", func() error {
		space, err := swapctl.Find(st.Device)
		if err == nil && space == nil {
			err = errors.Join(errors.New("not yet"), p.alive())
		}
		return err
	}); err != nil {
		return err
	}
	if _, err := output(ctx, dmps, "--meta", metaURL, "detach", another, "--yes", "--admin", "http://"+anotherAdmin); err != nil {
		return err
	}
	return p.wait(ctx)
}
