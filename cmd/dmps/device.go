package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/client/nbd"
	"dmps/client/nbddev"
)

// kernelDevice is a volume as a block device of this machine's kernel.
type kernelDevice interface {
	// Path is /dev/something.
	Path() string
	// Claim takes the device from everybody else, until Close. It is
	// blockdev.ErrInUse when somebody uses it. The device may have to answer for
	// that: not longer than ctx.
	Claim(ctx context.Context) error
	// Close takes the device away, unless it is in use: then the kernel waits
	// for the next client, and kept is true. Requests that are not answered when
	// ctx ends are never answered: the kernel asks the next client again.
	Close(ctx context.Context) (kept bool, err error)
}

// runDir is where the roles of a host find each other.
const runDir = "/run/dmps"

// deviceFlags say which device a volume becomes.
type deviceFlags struct {
	path        string
	connections int
	timeout     time.Duration
	dead        time.Duration
	unprotected bool
	queues      int // of ublk

	waits bool // settle has found that the kernel has the device for the volume
}

func (d *deviceFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&d.path, "device", "", "serve the volume as this block `device`: /dev/nbdN or /dev/ublkbN, or nbd or ublk for the first that is free, or auto: what the kernel has, ublk before nbd")
	fl.IntVar(&d.connections, "device-connections", 1, "`number` of sockets between the kernel and this process; with more than 1, a request that was sent again after its time-out may overtake its first copy")
	fl.IntVar(&d.queues, "device-queues", 0, "`number` of threads that serve a ublk device (default: one a processor, at most 4)")
	fl.DurationVar(&d.timeout, "device-timeout", nbddev.DefaultTimeout, "after how long without an answer the kernel sends a request again; the longest that a restart shows")
	fl.DurationVar(&d.dead, "device-dead-timeout", nbddev.DefaultDeadTimeout, "how long the kernel waits for this process to be started again before requests fail")
	fl.BoolVar(&d.unprotected, "allow-unprotected", false, "with --device: go on when this process cannot be kept from waiting for itself; do not swap to such a device, and do not fill its file systems")
	noCompletion(cmd, "device-connections", "device-queues", "device-timeout", "device-dead-timeout")
}

func (d *deviceFlags) check() error {
	switch {
	case d.path == "":
		return nil
	case d.queues < 0 || d.queues > 64:
		return usageError("--device-queues %d: 1 to 64", d.queues)
	case isUblk(d.path):
		_, err := ublkID(d.path)
		return err
	case d.path != autoDevice && d.path != "nbd" && !strings.HasPrefix(d.path, "/dev/nbd"):
		return usageError("--device %s: name a device such as /dev/nbd0 or /dev/ublkb0, nbd or ublk for the first that is free, or auto", d.path)
	}
	if d.path != autoDevice {
		if _, err := nbddev.ParsePath(d.path); err != nil {
			return usageError("--device: %v", err)
		}
	}
	switch {
	case d.connections < 1 || d.connections > 16:
		return usageError("--device-connections %d: 1 to 16", d.connections)
	case d.timeout < time.Second || d.dead < time.Second:
		return usageError("--device-timeout and --device-dead-timeout: at least 1s")
	}
	return nil
}

// lockHost makes two attaches of a volume's device on one host impossible: a
// second one by mistake would get the lease, as the same holder, and the first
// would be fenced. The file is a pid file beside the one that the role may have.
func (d *deviceFlags) lockHost(volume string) (*pidFile, error) {
	if d.path == "" {
		return takePIDFile("")
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("a folder for the pid file: %w", err)
	}
	return takePIDFile(filepath.Join(runDir, "attach-"+volume+".pid"))
}

// abandon closes a volume whose device could not be served. One of an earlier
// attach may wait for it: then nobody else is invited to take the volume.
func (d *deviceFlags) abandon(vol *client.Volume) error {
	if d.path == "" {
		return closeVolume(vol)
	}
	return leaveVolume(vol)
}

// start makes the device that settle has chosen, and writes it into about. identity tells the volume
// from all others. Without --device it returns nil.
func (d *deviceFlags) start(ctx context.Context, about *adminStatus, identity string, vol *client.Volume, log *slog.Logger) (kernelDevice, error) {
	if d.path == "" {
		return nil, nil
	}
	if isUblk(d.path) {
		u, err := startUblk(ctx, d.path, identity, d.queues, vol, log)
		if err != nil {
			return nil, err
		}
		about.Device, about.DeviceKind, about.Identity = u.Path(), "ublk", identity
		return u, nil
	}
	f, err := nbddev.Start(ctx, nbddev.Config{
		Path: d.path, Identifier: identity, Export: nbd.Export{Device: vol},
		Connections: d.connections, Timeout: d.timeout, DeadTimeout: d.dead, Log: log,
	})
	if err != nil {
		return nil, err
	}
	about.Device, about.DeviceKind, about.Identity = f.Path(), "nbd", identity
	return f, nil
}
