package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/client/nbd"
	"dmps/client/nbddev"
	"dmps/internal/bytesize"
	"dmps/internal/doctor"
	"dmps/internal/jitter"
	"dmps/internal/nbdclient"
	"dmps/internal/swapctl"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/transport/media"
)

type attachFlags struct {
	role      roleFlags
	device    deviceFlags
	swap      swapFlags
	nbd       string
	admin     string
	metrics   string
	holder    string
	arena     bytesize.Size
	heap      bytesize.Size
	takeover  bool
	swappable bool
	accept    bool
	agreed    consent // to accept
	rebuild   bytesize.Size
	guard     choice
	scrub     time.Duration
	scrubRate bytesize.Size
	pprof     bool
	patience  time.Duration
}

var guardModes = map[string]client.GuardMode{"on": client.GuardOn, "strict": client.GuardStrict, "off": client.GuardOff}

// Times of attach.
const (
	leavePatience = 10 * time.Second // for requests in flight when it is told to end
	askEvery      = time.Second      // for a metadata service that does not answer

	// How long requests wait for servers: somebody who asks over NBD can decide
	// what to do about an error, a process whose page does not come dies of it.
	defaultPatience = 10 * time.Second
	devicePatience  = 10 * time.Minute
)

func (a *app) attachCommand() *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:     "attach VOLUME",
		Short:   "Serve a volume as a block device, or over NBD",
		GroupID: groupRoles,
		Long: `Takes the lease on a volume and serves it until it is told to end: to this
machine's kernel with --device, to NBD clients without, or with --nbd as well.
The export has the volume's name and is the default export as well.

A device that the kernel uses (swap, a file system) outlives this process. When it
ends, killed or told to, requests wait; the next attach of the volume on this host
finds the device and goes on. 'dmps detach' takes it away.

Only one client can hold a volume. The lease belongs to the --holder, by default
this host and its NBD address, or the volume's device: an attach that was killed
gets it again at once when it is started with the same command line.

Memory is locked, because a client that is swapped out while the kernel swaps to
it waits for itself. --allow-swappable goes on without, for volumes that are not
swapped to by this machine.

Once a week everything in the volume is verified, and repaired where it is wrong
('dmps scrub --help'); --scrub-every says how often.

A client that was replaced by another one ends, with exit code 77: all its requests
are refused. Do not start it again before you know why.

The admin address is by default a socket that only this user and root reach. It answers
GET /status and /latency (JSON), /metrics (Prometheus) and /healthz, and takes POST
/rebuild (dmps rebuild), /scrub and /scrub/stop (dmps scrub), /detach (dmps detach).`,
		Example: `  dmps attach swap0
  dmps attach swap0 --device nbd --swap    # the first free /dev/nbdN is swap space
  dmps attach swap0 --nbd unix:/run/dmps/swap0.sock --metrics 127.0.0.1:9810
  dmps attach swap0 --takeover      # the other client is refused by every server from now on
  nbdinfo 'nbd+unix:///swap0?socket=/run/dmps/nbd-swap0.sock'`,
		Args:              exactArgs("VOLUME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.device.path != "" {
				if !cmd.Flags().Changed("nbd") {
					f.nbd = ""
				}
				if !cmd.Flags().Changed("patience") {
					f.patience = devicePatience
				}
			}
			return a.attach(cmd.Context(), args[0], f)
		},
	}
	f.role.add(cmd)
	f.device.add(cmd)
	f.swap.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.nbd, "nbd", ownSocket, "where to serve NBD: `ADDRESS` is unix:PATH, a socket of this user alone; unix, such a socket in /run/dmps or $XDG_RUNTIME_DIR/dmps; or HOST:PORT, where every user of the machine reads and writes the volume, also on loopback (with --device: only when given)")
	fl.StringVar(&f.admin, "admin", ownSocket, "`address` of status and orders over HTTP: unix:PATH, unix or HOST:PORT, as for --nbd: whoever reaches it can end this client; empty: none")
	fl.StringVar(&f.metrics, "metrics", "", "`address`, HOST:PORT, of /metrics and /healthz alone over HTTP (default: none)")
	fl.StringVar(&f.holder, "holder", "", "`name` under which the lease is held (default: host and NBD address)")
	f.arena, f.heap = 64*bytesize.MiB, 256*bytesize.MiB
	fl.Var(&f.arena, "arena", "page buffers: bounds the requests in flight")
	fl.Var(&f.heap, "heap-limit", "what the Go heap may take, besides the arena and the page map of the volume")
	fl.BoolVar(&f.takeover, "takeover", false, "take the volume from a client that is still alive")
	fl.Var(&f.rebuild, "rebuild-rate", "bytes a second that servers read from each other at most to rebuild this volume, all together; 0: only their own limits count")
	f.guard = newChoice("on", "on", "strict", "off")
	fl.Var(&f.guard, "rebuild-guard", "hold a rebuild back while reads take longer for it than they should: on (but not once no further loss can be borne), strict (then too) or off")
	fl.DurationVar(&f.scrub, "scrub-every", 7*24*time.Hour, "how often everything in the volume is verified, from the last time on; 0: only on demand")
	f.scrubRate = defaultScrubRate
	fl.Var(&f.scrubRate, "scrub-rate", "bytes a second that each server reads at most for a scrub; 0: no limit")
	fl.BoolVar(&f.accept, "accept-data-loss", false, "attach although more is lost than the redundancy can bear: what can be read is served; what only servers hold that are away is given up, also if they return; pages that are gone of which nobody knows which read as older versions or as zeros, and the volume is failed until 'dmps volume accept-loss'")
	f.agreed.flag(cmd)
	fl.BoolVar(&f.swappable, "allow-swappable", false, "go on when memory cannot be locked; do not swap to such a volume")
	fl.DurationVar(&f.patience, "patience", defaultPatience, "how long a request waits for memory servers that may come back, when too few answer, before it fails (with --device: 10m, because a failed request kills whose page it was); so long an attach waits for them, too, before it refuses")
	fl.BoolVar(&f.pprof, "pprof", false, "serve profiles under /debug/pprof/ of the admin address")
	completeChoice(cmd, "rebuild-guard", f.guard.allowed)
	noCompletion(cmd, "nbd", "patience", "admin", "metrics", "holder", "arena", "heap-limit", "rebuild-rate", "scrub-every", "scrub-rate")
	return cmd
}

func (a *app) attach(ctx context.Context, volume string, f attachFlags) (err error) {
	outlivePipes()
	log := a.logger().With("volume", volume)
	if err := f.check(); err != nil {
		return err
	}
	meta, err := a.meta()
	if err != nil {
		return err
	}
	defer meta.Close()
	if err := f.askLoss(ctx, a, meta, volume); err != nil {
		return err
	}
	if err := f.fitHost(volume, log); err != nil {
		return err
	}
	lock, err := f.device.lockHost(volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	pid, err := takePIDFile(f.role.pidFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pid.release()) }()

	// The listeners come before the lease: a second attach by mistake must
	// fail here, not take the volume from the first.
	s := &attachment{log: log, device: f.device, swap: f.swap, pprof: f.pprof, hosts: f.role.hosts, patience: f.patience, scrubRate: int64(f.scrubRate)}
	defer s.closeListeners()
	if err := s.listen(ctx, volume, &f); err != nil {
		return err
	}
	locked, err := lockMemory(f.swappable, log)
	if err != nil {
		return err
	}
	ready, err := f.prepare(ctx, a, meta, volume)
	if err != nil {
		return err
	}
	layout, lease, err := takeLease(ctx, meta, log, client.AttachRequest{
		Volume: volume, Holder: f.holder, AdminURL: s.adminURL, Takeover: f.takeover,
	})
	if err != nil {
		ready.Close()
		return err
	}
	if s.vol, err = f.open(ctx, a, meta, ready, layout, lease); err != nil {
		return err
	}
	// The page map is part of the heap.
	if err := settleHeap(ctx, f.heap+bytesize.Size(client.MapBytes(layout.Pages)), locked, clientReserve, log); err != nil {
		return errors.Join(err, f.device.abandon(s.vol))
	}
	s.identity = fmt.Sprintf("dmps/%s/%s/%v", layout.Cluster, volume, layout.Volume)
	s.about = adminStatus{
		Volume: volume, Epoch: layout.Epoch, Redundancy: layout.Geometry.String(), Layout: layout.Kind.String(),
		SizeBytes: uint64(s.vol.Size()), Groups: len(layout.Groups), NBD: s.about.NBD,
		Holder: f.holder, PID: os.Getpid(), PIDSpace: pidSpace(), Boot: bootID(), Started: time.Now(), Locked: locked, Version: version,
	}
	return s.run(ctx)
}

// fitHost refuses a machine that a device could hang, and protects this process from
// waiting for its own device.
func (f *attachFlags) fitHost(volume string, log *slog.Logger) error {
	if f.device.path == "" {
		return nil
	}
	host, err := thisHost(kindOf(f.device.path))
	if err != nil {
		return err
	}
	if err := meets(host, doctor.Waivers{Unprotected: f.device.unprotected, Swappable: f.swappable}); err != nil {
		return err
	}
	return protect(attachCgroup(volume), f.device.unprotected, log)
}

// prepare has the client's memory ready before the lease is asked for: what this machine
// refuses must cost no epoch, however often a service manager tries.
func (f *attachFlags) prepare(ctx context.Context, a *app, meta *metaclient.Client, volume string) (*client.Prepared, error) {
	var v metaclient.Volume
	var layout *raid.Layout
	err := untilDecided(ctx, a.logger().With("volume", volume), func() (err error) {
		v, layout, err = meta.Volume(ctx, volume)
		return err
	})
	if err != nil {
		return nil, err
	}
	return client.Prepare(client.Config{
		Layout: layout, Meta: meta, Dialer: &media.Dialer{Log: a.logger()}, ArenaBytes: int64(f.arena),
		AllowSwappable: f.swappable, Holder: f.holder, Patience: f.patience, RebuildRate: int64(f.rebuild), RebuildGuard: guardModes[f.guard.value], AcceptLoss: f.accept, Logger: a.logger(), // it names the volume itself
		ScrubEvery: f.scrub, ScrubRate: int64(f.scrubRate), LastScrub: lastScrub(v),
	})
}

// open opens the volume. When that fails it gives the lease back, so that nobody need
// wait for it to run out, unless a device may wait for the volume: then nobody else is
// invited to take it.
func (f *attachFlags) open(ctx context.Context, a *app, meta *metaclient.Client, ready *client.Prepared, layout *raid.Layout, lease client.Lease) (*client.Volume, error) {
	vol, err := ready.Open(ctx, layout, lease)
	if err == nil {
		return vol, nil
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
	defer cancel()
	err = lossAdvice(err, layout, stakesOf(layout, serversNow(bye, meta)), f.accept)
	if f.device.path == "" {
		err = errors.Join(err, meta.Detach(bye, layout.Volume, layout.Epoch))
	}
	return nil, err
}

func (f *attachFlags) check() error {
	if err := errors.Join(f.device.check(), f.swap.check(f.device.path)); err != nil {
		return err
	}
	if f.nbd == "" && f.device.path == "" {
		return usageError("nothing to serve: give an address to --nbd, or --device")
	}
	if f.nbd != "" && f.nbd != ownSocket {
		addr, err := nbdclient.ParseListen(f.nbd)
		if err != nil {
			return usageError("--nbd: %v", err)
		}
		if err := addr.Fit(); err != nil {
			return usageError("--nbd: %v", err)
		}
		if addr.Network == "tcp" {
			if err := f.role.checkAddr("nbd", f.nbd); err != nil {
				return err
			}
		}
	}
	if path, local := strings.CutPrefix(f.admin, "unix:"); local && path == "" {
		return usageError("--admin %q: give a path, unix:PATH", f.admin)
	} else if f.admin != "" && f.admin != ownSocket && !local {
		if err := f.role.checkAddr("admin", f.admin); err != nil {
			return err
		}
	}
	if f.metrics != "" {
		if err := f.role.checkAddr("metrics", f.metrics); err != nil {
			return err
		}
	}
	if f.scrub < 0 || f.scrub > 0 && f.scrub < time.Minute {
		return usageError("--scrub-every %v: at least 1m, or 0 for never", f.scrub)
	}
	if f.patience < time.Second {
		return usageError("--patience %v: at least 1s", f.patience)
	}
	if f.heap < 16*bytesize.MiB {
		return usageError("--heap-limit %v: at least 16MiB", f.heap)
	}
	if f.arena < bytesize.MiB {
		return usageError("--arena %v: at least 1MiB", f.arena)
	}
	return nil
}

// defaultHolder is who holds the lease: a name that stays the same when the
// same command is run again, and that nobody else has, since only one process
// listens at an address of a host, or has the device of a volume.
func defaultHolder(at string) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("finding the host's name for the lease: name a --holder: %w", err)
	}
	return host + "/" + strings.TrimPrefix(at, "/"), nil
}

// takeLease asks until the metadata service decides.
func takeLease(ctx context.Context, meta *metaclient.Client, log *slog.Logger, req client.AttachRequest) (layout *raid.Layout, lease client.Lease, err error) {
	err = untilDecided(ctx, log, func() (err error) {
		layout, lease, err = meta.Attach(ctx, req)
		return err
	})
	if err == nil {
		log.Info("holding the lease", "holder", req.Holder, "epoch", uint64(layout.Epoch), "redundancy", layout.Geometry.String())
	}
	return layout, lease, err
}

// untilDecided asks the metadata service again while it decides nothing.
func untilDecided(ctx context.Context, log *slog.Logger, ask func() error) error {
	for {
		err := ask()
		if err == nil || !errors.Is(err, client.ErrNoQuorum) || ctx.Err() != nil {
			return err
		}
		log.Warn("waiting for the metadata service", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(jitter.Around(askEvery)):
		}
	}
}

// attachment is a volume that is being served.
type attachment struct {
	vol   *client.Volume
	log   *slog.Logger
	front net.Listener // nil: no NBD clients
	side  net.Listener // nil: no admin address

	adminURL string       // of side, http://HOST:PORT or unix:///PATH
	outside  net.Listener // metrics and health alone; nil: none

	device   deviceFlags
	swap     swapFlags
	identity string // of the volume, in all clusters
	pprof    bool
	hosts    []string // names by which the admin address may be asked
	about    adminStatus

	patience  time.Duration
	scrubRate int64 // of scrubs on demand that name none
}

// listen makes the listeners, and the name of the holder if it has none: it is that of
// the address.
func (s *attachment) listen(ctx context.Context, volume string, f *attachFlags) (err error) {
	at := "device/" + volume
	own := f.nbd == ownSocket
	if own {
		if f.nbd, err = nbdSocket(volume); err != nil {
			return listenError("nbd", ownSocket, err)
		}
	}
	if f.nbd != "" {
		if s.front, err = nbd.Listen(f.nbd); err != nil {
			err = listenError("nbd", f.nbd, err)
			if own && errors.Is(err, syscall.EADDRINUSE) {
				err = &advised{err, "A 'dmps attach' of this volume runs on this host: use that one, or end it with 'dmps detach " + volume + "'. To take the volume from it all the same, say --takeover and another --nbd."}
			}
			return err
		}
		s.about.NBD, at = nbd.URI(s.front.Addr(), volume), s.front.Addr().String()
	}
	if f.holder == "" {
		if f.holder, err = defaultHolder(at); err != nil {
			return err
		}
	}
	if f.admin != "" {
		if s.side, s.adminURL, err = listenAdmin(ctx, f.admin, volume); err != nil {
			return err
		}
	}
	if f.metrics != "" {
		s.outside, err = listen(ctx, "metrics", f.metrics)
	}
	return err
}

// closeListeners ends what listens still: servers close what they were given.
func (s *attachment) closeListeners() {
	for _, l := range []net.Listener{s.front, s.side, s.outside} {
		if l != nil {
			l.Close()
		}
	}
}

// run serves until ctx ends or another client takes the volume. Then it lets
// clients finish what is in flight, and gives the lease back, unless the kernel
// still uses the device.
func (s *attachment) run(ctx context.Context) (err error) {
	if err := s.settle(ctx); err != nil {
		return errors.Join(err, s.device.abandon(s.vol))
	}
	dev, err := s.device.start(ctx, &s.about, s.identity, s.vol, s.log)
	if err != nil {
		return errors.Join(err, s.device.abandon(s.vol))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	adm := s.administer(dev, cancel)
	if s.outside != nil {
		defer adm.serveMetrics(s.outside, s.log)()
	}
	if s.side != nil {
		defer adm.serve(s.side, s.log)()
		if dev != nil {
			takeBack, terr := tellWhereabouts(runDir, s.about.Volume, s.adminURL)
			if terr != nil {
				return errors.Join(terr, s.leave(dev))
			}
			defer func() { err = errors.Join(err, takeBack()) }()
		}
	}
	if dev != nil {
		if err := s.swap.start(ctx, dev, s.vol.Size(), s.about.Volume, s.log); err != nil {
			return errors.Join(err, s.leave(dev))
		}
	}
	served := make(chan error, 1)
	var srv *nbd.Server
	if s.front != nil {
		if srv, err = nbd.NewServer(nbd.Config{
			// No description: go-nbd's client takes it for more names.
			Exports: map[string]nbd.Export{s.about.Volume: {Device: s.vol}},
			Default: s.about.Volume,
			Log:     s.log, Patience: s.patience,
		}); err != nil {
			return errors.Join(err, s.leave(dev))
		}
		go func() { served <- srv.Serve(s.front) }()
	}
	s.log.Info("serving", "nbd", s.about.NBD, "device", s.about.Device, "admin", s.adminURL, "size", human(s.about.SizeBytes))

	ready(s.log)

	err = s.wait(ctx, served, dev)
	s.log.Info("ending", "cause", err)
	leaving(s.log)
	if srv != nil {
		bye, cancel := context.WithTimeout(context.Background(), leavePatience)
		defer cancel()
		if serr := srv.Shutdown(bye); serr != nil {
			s.log.Warn("clients did not finish in time", "error", serr)
			err = errors.Join(err, srv.Close())
		}
	}
	return errors.Join(err, s.leave(dev))
}

// settle chooses the device, and refuses one whose pages the volume holds no more.
func (s *attachment) settle(ctx context.Context) error {
	if err := s.device.settle(s.identity, kernelDrivers, s.log); err != nil || !s.swap.on || !s.device.waits {
		return err
	}
	return stillOurs(ctx, s.device.path, s.about.Boot, s.vol, swapctl.Find)
}

// administer is what the admin address answers.
func (s *attachment) administer(dev kernelDevice, end func()) *admin {
	adm := newAdmin(s.pprof, s.log, s.hosts...)
	adm.reg.MustRegister(&volumeMetrics{s.about.Volume, s.vol.Report})
	adm.answer("/status", func() any {
		about := s.about
		about.Report = s.vol.Report()
		return about
	})
	adm.answer("/latency", func() any {
		l := latencies{At: time.Now().UTC(), Epoch: uint64(s.about.Epoch), Bounds: client.BucketBounds()}
		l.Read, l.Write = s.vol.Latencies()
		return l
	})
	takeRebuild(adm.mux, s.vol)
	adm.health(s.vol.Flush)
	adm.takeScrubs(s.vol, s.scrubRate)
	adm.takeDetach(dev, end)
	return adm
}

// leave ends the device, if there is one, and the volume.
func (s *attachment) leave(dev kernelDevice) error {
	if dev == nil {
		return closeVolume(s.vol)
	}
	bye, end := context.WithTimeout(context.Background(), leavePatience)
	defer end()
	kept, err := dev.Close(bye)
	if !kept {
		return errors.Join(err, closeVolume(s.vol))
	}
	if _, why := failing(dev); why != nil && errors.Is(why(), nbddev.ErrGone) {
		s.log.Error("the device was disconnected while it is in use: its requests fail; end its use, and attach again", "device", dev.Path())
	} else {
		s.log.Warn("the kernel still uses the device: its requests wait for the next attach of this volume on this host",
			"device", dev.Path(), "for", s.device.dead)
	}
	return errors.Join(err, leaveVolume(s.vol))
}

// wait returns nil when ctx ended, and otherwise why there is nothing to serve
// any more.
func (s *attachment) wait(ctx context.Context, served <-chan error, dev kernelDevice) error {
	failed, why := failing(dev)
	select {
	case <-ctx.Done():
		return nil
	case err := <-served:
		return fmt.Errorf("serving NBD: %w", err)
	case <-failed:
		return fmt.Errorf("serving %s: %w", dev.Path(), why())
	case <-s.vol.Done():
		return s.vol.Err()
	}
}

// leaveVolume keeps the lease, for the next attach on this host.
func leaveVolume(vol *client.Volume) error {
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	return vol.Leave(ctx)
}

// closeVolume gives the lease back.
func closeVolume(vol *client.Volume) error {
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	return vol.Close(ctx)
}
