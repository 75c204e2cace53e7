package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"dmps/chaos/research/paper"
)

// device is one of the things that are compared, attached.
type device struct {
	name    string
	path    string // of the block device
	size    int64  // that may be used, in bytes
	servers int    // that hold it, 0 for a disk
	undo    []func() error
}

// close takes everything down that was put up, in the opposite order.
func (d device) close() error {
	var errs []error
	for _, f := range slices.Backward(d.undo) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// startTime bounds each thing that is waited for while a device is attached.
const startTime = 2 * time.Minute

// attach makes the device of that name, of at least size bytes.
func (b *Bed) attach(ctx context.Context, name string, size int64) (device, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	switch name {
	case paper.LocalDisk:
		return device{name: name, path: b.Disk, size: size}, nil
	case paper.PlainNBD:
		return b.plain(ctx, size)
	case paper.DmpsOne:
		return b.dmps(ctx, name, size, volume{servers: 1, redundancy: "none", overhead: 1})
	case paper.DmpsTwo:
		return b.dmps(ctx, name, size, volume{servers: 2, redundancy: "none", overhead: 0.5})
	case paper.DmpsMirror:
		return b.dmps(ctx, name, size, volume{servers: 2, redundancy: "mirror:2", overhead: 1})
	case paper.DmpsRS:
		return b.dmps(ctx, name, size, volume{servers: 3, redundancy: "rs:2+1", overhead: 0.5})
	}
	return device{}, fmt.Errorf("there is no device %q", name)
}

// plain is one nbdkit that keeps everything in its memory, reached over TCP.
func (b *Bed) plain(ctx context.Context, size int64) (d device, err error) {
	d = device{name: paper.PlainNBD, size: size, servers: 1}
	const address = "127.0.0.1:10900"
	// --swap locks its memory; malloc keeps it in one piece.
	p, err := b.start("nbdkit", "nbdkit", "--foreground", "--swap", "--ipaddr=127.0.0.1", "--port=10900", "memory", strconv.FormatInt(size, 10), "allocator=malloc")
	if err != nil {
		return d, err
	}
	d.undo = append(d.undo, p.kill)
	if err := p.ready(ctx, "tcp", address); err != nil {
		return d, err
	}
	detach, err := kernelNBD(ctx, address)
	if detach != nil {
		d.undo = append(d.undo, detach)
	}
	d.path = nbdPath
	return d, err
}

// volume is how a volume of dmps is laid out.
type volume struct {
	servers    int
	redundancy string
	layout     string   // "" is log
	overhead   float64  // bytes that a server keeps for a byte of the volume
	places     []string // network namespaces of the servers, "" is the guest's; nil: all there
	addresses  []string // of the servers, with places
	metas      []string // where each of them finds the metadata service, with places
	meta       string   // where the metadata service listens, "" for loopback
}

// fill is how full servers get, in percent: what dmps takes by itself.
const fill = 80

// dmps is a cluster of one metadata node, memory servers and a client, each a
// process, whose volume the kernel has attached over ublk.
func (b *Bed) dmps(ctx context.Context, name string, size int64, v volume) (d device, err error) {
	d = device{name: name, size: size, servers: v.servers}
	if v.meta == "" {
		v.meta = "127.0.0.1:7200"
	}
	if v.layout == "" {
		v.layout = "log"
	}
	urls := "http://127.0.0.1:7200"
	state := filepath.Join(b.Dir, "meta-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	launch := func(role string, argv ...string) (*process, error) {
		p, err := b.start(role, argv...)
		if err == nil {
			d.undo = append(d.undo, p.kill)
		}
		return p, err
	}
	argv := []string{b.Dmps, "meta", "--dir", state, "--api", v.meta, "--insecure-network"}
	if len(v.metas) > 0 {
		argv = append(argv, "--api-advertise", v.metas[0])
	}
	p, err := launch("meta", argv...)
	if err != nil {
		return d, err
	}
	if err := p.ready(ctx, "tcp", "127.0.0.1:7200"); err != nil {
		return d, err
	}
	// The log needs spare rows: 100/80 of the volume, a chunk, and 5 %.
	share := int64(float64(size)*v.overhead*1.05*100/fill) + 96<<20
	if v.layout != "log" {
		share = size/int64(v.servers) + 96<<20
	}
	for i := range v.servers {
		address := fmt.Sprintf("127.0.0.1:%d", 7301+i)
		var in []string
		if v.places != nil {
			address = v.addresses[i]
			in = []string{"ip", "netns", "exec", v.places[i]}
		}
		find := urls
		if v.metas != nil {
			find = "http://" + v.metas[i]
		}
		argv := append(in, b.Dmps, "server", "--meta", find, "--id", fmt.Sprintf("server%d", i+1), "--listen", address, "--insecure-network",
			"--memory", strconv.FormatInt(share>>20<<20, 10), "--low-memory", "0", "--pressure", "0", "--care=false")
		p, err := launch(fmt.Sprintf("server%d", i+1), argv...)
		if err != nil {
			return d, err
		}
		if err := p.ready(ctx, "tcp", address); err != nil {
			return d, err
		}
	}
	if err := b.create(ctx, urls, v, size); err != nil {
		return d, err
	}
	if p, err = launch("client", b.Dmps, "attach", "paper", "--meta", urls, "--device", dmpsPath, "--insecure-network", "--scrub-every", "0"); err != nil {
		return d, err
	}
	// The client ends in order, and before the servers: it must be able to take the
	// device away, and its end tells whether all went well.
	d.undo[len(d.undo)-1] = func() error { return errors.Join(p.stop(), gone(dmpsPath)) }
	d.path = dmpsPath
	return d, p.attached(ctx, d.path)
}

// create makes the volume, once the metadata service has heard of all servers: of
// some of them it would take what there is.
func (b *Bed) create(ctx context.Context, urls string, v volume, size int64) error {
	for {
		n, err := b.serversUp(ctx, urls)
		if err != nil {
			return err
		}
		if n == v.servers {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d servers have registered: %w", n, v.servers, ctx.Err())
		case <-time.After(300 * time.Millisecond): // asks again; nothing tells
		}
	}
	return run(ctx, b.Dmps, "volume", "create", "paper", "--meta", urls, "--size", strconv.FormatInt(size, 10),
		"--redundancy", v.redundancy, "--layout", v.layout, "--failure-domain", "server")
}

// serversUp counts the servers that can be given chunks.
func (b *Bed) serversUp(ctx context.Context, urls string) (int, error) {
	out, err := exec.CommandContext(ctx, b.Dmps, "server", "list", "--meta", urls, "--output", "json").Output()
	if err != nil {
		return 0, fmt.Errorf("asking for the servers: %w", err)
	}
	return upIn(out)
}

// upIn counts those that are up in what dmps server list --output json says.
func upIn(list []byte) (int, error) {
	var all []struct{ State string }
	if err := json.Unmarshal(list, &all); err != nil {
		return 0, fmt.Errorf("the list of servers: %w", err)
	}
	n := 0
	for _, s := range all {
		if s.State == "up" {
			n++
		}
	}
	return n, nil
}
