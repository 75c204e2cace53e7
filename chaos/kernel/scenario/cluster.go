package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	dmps    = "/bin/dmps"
	metaURL = "127.0.0.1:7200"
	admin   = "http://127.0.0.1:9810"
	volume  = "swap0"
)

// scheme is a volume and the servers for it.
type scheme struct {
	redundancy string
	servers    int // two more than lost at once would leave none to rebuild on
	m          int // how many may be lost at once
	volumeMiB  int
	serverMiB  int
	provider   string // of one-sided transfers; empty: TCP
}

// Sized for guests: M servers may be lost and replaced twice.
var (
	mirror2 = scheme{redundancy: "mirror:2", servers: 3, m: 1, volumeMiB: 128, serverMiB: 128}
	single  = scheme{redundancy: "none", servers: 1, volumeMiB: 128, serverMiB: 256}
	rs21    = scheme{redundancy: "rs:2+1", servers: 4, m: 1, volumeMiB: 128, serverMiB: 80}
	rs42    = scheme{redundancy: "rs:4+2", servers: 8, m: 2, volumeMiB: 128, serverMiB: 56}
)

// cluster is dmps in a guest.
type cluster struct {
	g       *Guest
	scheme  scheme
	meta    *process
	servers []*process
	lives   []int // how often each server was started
	attach  *process
	device  string // what --device was
}

// newCluster starts metadata, servers and a volume.
func newCluster(ctx context.Context, g *Guest, s scheme) (*cluster, error) {
	c := &cluster{g: g, scheme: s, servers: make([]*process, s.servers), lives: make([]int, s.servers)}
	if err := c.startMeta(); err != nil {
		return nil, err
	}
	for i := range c.servers {
		if err := c.startServer(i); err != nil {
			return nil, err
		}
	}
	return c, until(ctx, time.Minute, "creating the volume", func() error {
		_, err := output(ctx, dmps, "--meta", metaURL, "volume", "create", volume, "--redundancy", s.redundancy,
			"--size", strconv.Itoa(s.volumeMiB)+"MiB", "--failure-domain", "server")
		return err
	})
}

func (c *cluster) startMeta() (err error) {
	c.meta, err = c.g.start("meta", "", dmps, "meta", "--dir", "/run/meta", "--grace", "3s", "--protect")
	return err
}

// startServer starts server i, empty. The OOM killer must not choose it: it
// shares the machine with what swaps.
func (c *cluster) startServer(i int) (err error) {
	id := fmt.Sprintf("s%d", i)
	argv := []string{dmps, "--meta", metaURL, "server", "--id", id, "--memory", strconv.Itoa(c.scheme.serverMiB) + "MiB",
		"--protect", "--low-memory", "0", "--pressure", "0", "--care=false", "--heap-limit", "64MiB"}
	c.servers[i], err = c.g.start(id, "", append(argv, c.scheme.listen(7301+i)...)...)
	c.lives[i]++
	return err
}

// launchAttach starts a client that attaches the volume as a device.
func (c *cluster) launchAttach(device string, more ...string) (err error) {
	c.device = device
	c.attach, err = c.g.start("attach", "", attachArgs(volume, device, more...)...)
	return err
}

func attachArgs(volume, device string, more ...string) []string {
	return append([]string{dmps, "--meta", metaURL, "attach", volume, "--device", device,
		"--admin", "127.0.0.1:9810", "--arena", "16MiB", "--heap-limit", "96MiB", "--scrub-every", "0"}, more...)
}

// startAttach attaches the volume as a device, and waits until it is there.
func (c *cluster) startAttach(ctx context.Context, device string, more ...string) error {
	if err := c.launchAttach(device, more...); err != nil {
		return err
	}
	return until(ctx, time.Minute, "attaching the volume", func() error {
		if err := c.attach.alive(); err != nil {
			return err
		}
		st, err := c.status(ctx)
		if err == nil && st.Device == "" {
			err = fmt.Errorf("no device yet")
		}
		return err
	})
}

// newDevice is a cluster whose volume is a device.
func newDevice(ctx context.Context, g *Guest, kind string, s scheme) (*cluster, attachStatus, error) {
	c, err := newCluster(ctx, g, s)
	if err != nil {
		return nil, attachStatus{}, err
	}
	if err := c.startAttach(ctx, kind); err != nil {
		return nil, attachStatus{}, err
	}
	st, err := c.status(ctx)
	return c, st, err
}

// attachStatus is what scenarios read of a client's status.
type attachStatus struct {
	Device string `json:"device"`
	Report struct {
		LivePages uint64           `json:"mapped_pages"`
		Counters  map[string]int64 `json:"counters"`
	} `json:"report"`
}

func (c *cluster) status(ctx context.Context) (attachStatus, error) {
	var st attachStatus
	return st, get(ctx, admin+"/status", &st)
}

// healthy is nil when the volume has all its redundancy.
func (c *cluster) healthy(ctx context.Context) error {
	out, err := output(ctx, dmps, "--meta", metaURL, "volume", "list", "--output", "json")
	if err != nil {
		return err
	}
	var all []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return fmt.Errorf("listing volumes: %w: %s", err, out)
	}
	for _, v := range all {
		if v.Name == volume && v.State == "healthy" {
			return nil
		}
	}
	return fmt.Errorf("the volume is not healthy: %s", out)
}

// inMemory is nil when no page of dmps itself is swapped out. One is enough to
// have a server wait for its own volume, for good.
func (c *cluster) inMemory() error {
	for _, p := range append([]*process{c.meta, c.attach}, c.servers...) {
		if p.alive() != nil {
			continue // killed by the scenario
		}
		kib, err := statusKiB(p.cmd.Process.Pid, "VmSwap")
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, errNoLine):
			continue // it has just ended, and has no memory
		case err != nil:
			return err
		case kib > 0:
			return fmt.Errorf("%d KiB of %s are swapped out to its own volume", kib, p.name)
		}
	}
	return nil
}

// heal waits until all redundancy is there.
func (c *cluster) heal(ctx context.Context) error {
	return until(ctx, 90*time.Second, "rebuilding", func() error { return c.healthy(ctx) })
}

// lose kills servers at once and starts them again empty.
func (c *cluster) lose(which ...int) error {
	for _, i := range which {
		if err := c.servers[i].signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) replace(which ...int) error {
	for _, i := range which {
		if err := c.startServer(i); err != nil {
			return err
		}
	}
	return nil
}

// end ends all processes of a cluster that nobody uses, and takes its folder.
func (c *cluster) end() error {
	for _, p := range append([]*process{c.meta}, c.servers...) {
		if err := p.signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	if err := os.RemoveAll("/run/meta"); err != nil {
		return fmt.Errorf("ending a cluster: %w", err)
	}
	return nil
}

// detach ends the use of the volume, as an operator would.
func (c *cluster) detach(ctx context.Context) error {
	if _, err := output(ctx, dmps, "--meta", metaURL, "detach", volume, "--yes"); err != nil {
		return err
	}
	return c.attach.wait(ctx)
}
