package main

import (
	"fmt"
	"log/slog"

	"dmps/client/hostdev"
	"dmps/client/ublk"
)

// autoDevice leaves the choice of the front end to settle.
const autoDevice = "auto"

// drivers are what the choice of a front end depends on.
type drivers struct {
	ublk func() error // nil: it can be used
	// of are the devices that the kernel has for the volume.
	of func(identity string) ([]hostdev.Device, error)
}

var kernelDrivers = drivers{ublk: ublk.Supported, of: hostdev.Of}

// settle decides which front end serves the volume, and writes it into path. A
// device that an earlier client has left to the next one must be gone on with,
// and no other be made: what the kernel has out lies there, and nobody else
// answers it. Otherwise it is ublk where the kernel has it, for it moves a page
// with fewer wakings (docs/kernel.md, "Which front end"), and else nbd.
func (d *deviceFlags) settle(identity string, k drivers, log *slog.Logger) error {
	if d.path == "" {
		return nil
	}
	there, err := k.of(identity)
	switch {
	case err != nil:
		return fmt.Errorf("looking for a device that waits for the volume: %w", err)
	case len(there) > 1:
		return &advised{fmt.Errorf("the kernel has more than one device for this volume: %s and %s", there[0].Path, there[1].Path),
			"Nobody can tell which of them holds what is out. End the use of the one that was made by mistake, and disconnect it."}
	case len(there) == 1:
		has := there[0]
		if d.path != autoDevice && d.path != has.Kind && d.path != has.Path {
			return waitsElsewhere(d.path, has.Path)
		}
		d.path, d.waits = has.Path, true
		return nil
	case d.path == autoDevice:
		d.path = "ublk"
		if err := k.ublk(); err != nil {
			log.Info("the device is served over nbd", "because", err)
			d.path = "nbd"
		}
	}
	return nil
}

func waitsElsewhere(asked, has string) error {
	return &advised{fmt.Errorf("--device %s: the kernel waits for this volume at %s", asked, has),
		"--device " + has + ", or " + autoDevice + ", goes on with it. To change, detach the volume first."}
}

// remains is nil when no device of the volume is left on this host. identity is
// unknown of a client of an older version: then no volume may have the path.
func remains(identity, path string, list func() ([]hostdev.Device, error)) error {
	all, err := list()
	if err != nil {
		return fmt.Errorf("the client has ended, and whether the kernel still has %s nobody knows: %w", path, err)
	}
	for _, d := range all {
		if identity != "" && d.Owner == ublk.Tag(identity) || identity == "" && d.Path == path {
			return &advised{fmt.Errorf("the kernel has kept %s: somebody began to use it, and its requests wait", d.Path),
				"Attach the volume again on this host (--device " + d.Path + "), end the use of the device, and detach."}
		}
	}
	return nil
}
