package ublk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A partition table is read by START_DEV, which a worker of this process carries
// out, from this process. Killed meanwhile, it cannot end: its end waits for the
// worker, which waits for a page from it. And it keeps all of its files for as long,
// so that no next client gets the device. So nobody reads one: swap space and a
// file system of the whole device need none.
//
// Drivers that have featNoPartScan are asked for that. Others read the table only
// when all that serve a queue could be trusted with the machine: when they have
// CAP_SYS_ADMIN at the time of the last fetch (GD_SUPPRESS_PART_SCAN in
// ublk_ctrl_start_dev of ublk_drv.c, since 6.5).

// without calls f with one capability of the calling thread out of effect. The
// goroutine must be locked to its thread.
func without(capability uint, f func() error) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&h, &have[0]); err != nil {
		return fmt.Errorf("asking for capabilities: %w", err)
	}
	less := have
	less[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&h, &less[0]); err != nil {
		return fmt.Errorf("giving up capability %d for a moment: %w", capability, err)
	}
	err := f()
	if back := unix.Capset(&h, &have[0]); err == nil && back != nil {
		err = fmt.Errorf("taking back capability %d: %w", capability, back)
	}
	return err
}

func (d *driver) untrusted(f func() error) error { return without(unix.CAP_SYS_ADMIN, f) }
