package main

import (
	"fmt"
	"log/slog"

	"dmps/client/nbddev"
	"dmps/client/ublk"
)

// autoDevice leaves the choice of the front end to settle.
const autoDevice = "auto"

// drivers are what the choice of a front end depends on.
type drivers struct {
	ublk        func() error                                               // nil: it can be used
	waitsOnNBD  func(identity string) (path string, found bool)            // the volume's device of before
	waitsOnUblk func(identity string) (path string, found bool, err error) // likewise
}

var kernelDrivers = drivers{ublk: ublk.Supported, waitsOnNBD: nbddev.Waiting, waitsOnUblk: ublk.Waiting}

// settle decides which front end serves the volume, and writes it into path. A
// device that an earlier client has left to the next one must be gone on with:
// what the kernel has out lies there, and nobody else answers it. Otherwise it
// is ublk where the kernel has it, for it moves a page with fewer wakings
// (docs/kernel.md, "Which front end"), and else nbd.
func (d *deviceFlags) settle(identity string, k drivers, log *slog.Logger) error {
	if d.path == "" {
		return nil
	}
	onNBD, nbdWaits := k.waitsOnNBD(identity)
	onUblk, ublkWaits, err := k.waitsOnUblk(identity)
	switch {
	case err != nil:
		return fmt.Errorf("looking for a device that waits for the volume: %w", err)
	case nbdWaits && ublkWaits:
		return &advised{fmt.Errorf("%s and %s both wait for this volume", onNBD, onUblk),
			"Whoever uses one of them has to end; --device takes the other."}
	case d.path == autoDevice && nbdWaits:
		d.path = onNBD
	case d.path == autoDevice && ublkWaits:
		d.path = onUblk
	case d.path == autoDevice:
		d.path = "ublk"
		if err := k.ublk(); err != nil {
			log.Info("the device is served over nbd", "because", err)
			d.path = "nbd"
		}
	case nbdWaits && isUblk(d.path):
		return waitsElsewhere(d.path, onNBD)
	case ublkWaits && !isUblk(d.path):
		return waitsElsewhere(d.path, onUblk)
	}
	return nil
}

func waitsElsewhere(asked, has string) error {
	return &advised{fmt.Errorf("--device %s: the kernel waits for this volume at %s", asked, has),
		"--device " + has + ", or " + autoDevice + ", goes on with it. To change, detach the volume first."}
}
