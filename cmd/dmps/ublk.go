package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"dmps/client"
	"dmps/client/ublk"
	"dmps/internal/blockdev"
)

// ublkDevice is a volume as a block device of the kernel's ublk driver.
type ublkDevice struct{ *ublk.Server }

// ublkPath is how the driver names its block devices.
const ublkPath = "/dev/ublkb"

// isUblk reports whether --device asks for the ublk driver.
func isUblk(device string) bool { return device == "ublk" || strings.HasPrefix(device, ublkPath) }

// ublkID is the number in --device; ublk.AnyID: any that is free.
func ublkID(device string) (int, error) {
	if device == "ublk" {
		return ublk.AnyID, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(device, ublkPath), 10, 16)
	if err != nil {
		return 0, usageError("--device %s: name a device such as %s0, or ublk for the first that is free", device, ublkPath)
	}
	return int(n), nil
}

// startUblk makes the device, or goes on with the one that waits for the volume.
func startUblk(ctx context.Context, device, identity string, queues int, vol *client.Volume, log *slog.Logger) (*ublkDevice, error) {
	id, err := ublkID(device)
	if err != nil {
		return nil, err
	}
	ublk.Procs(queues)
	s, err := ublk.Start(ctx, ublk.Config{Device: vol, Identity: identity, ID: id, Queues: queues, Log: log})
	switch {
	case err == nil:
		return &ublkDevice{s}, nil
	case errors.Is(err, ublk.ErrUnsupported):
		return nil, &advised{err, "--device nbd works on older kernels."}
	case errors.Is(err, ublk.ErrTaken), errors.Is(err, ublk.ErrElsewhere):
		return nil, &advised{fmt.Errorf("--device %s: %w", device, err), "--device ublk finds the device of the volume, or one that is free."}
	}
	return nil, err
}

// Close implements kernelDevice.
func (d *ublkDevice) Close(ctx context.Context) (kept bool, err error) {
	err = d.Stop(ctx)
	if err == nil || d.Stopping() {
		return false, err
	}
	if errors.Is(err, blockdev.ErrInUse) {
		err = nil
	}
	// What may be in use must not be taken away.
	return true, errors.Join(err, d.Leave(ctx))
}

// fallible is a kernelDevice that can stop working by itself.
type fallible interface {
	Failed() <-chan struct{}
	Err() error
}

// failing is a channel that is closed when a device stops working, and why it
// did. Of others it never is.
func failing(dev kernelDevice) (<-chan struct{}, func() error) {
	if f, ok := dev.(fallible); ok {
		return f.Failed(), f.Err
	}
	return nil, nil
}
