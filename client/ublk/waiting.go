package ublk

import (
	"errors"
	"fmt"
	"os"
)

// Held is a device of the driver: it is served, or waits for the next server.
type Held struct {
	Path string
	Tag  uint64 // Tag of the volume's identity, if it is a volume's
}

// List returns the devices that are not dead. Whoever makes a device of any kind
// asks first: the requests of one that waits would wait for ever. Without a
// driver there is none. Package hostdev asks for all kinds.
func List() ([]Held, error) {
	d, err := openDriver()
	if errors.Is(err, ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := listHeld(d)
	return all, errors.Join(err, d.Close())
}

func listHeld(k kernel) ([]Held, error) {
	ids, err := k.devices()
	if err != nil {
		return nil, err
	}
	var all []Held
	for _, id := range ids {
		i, err := k.info(id)
		switch {
		case errors.Is(err, errNoDevice): // it was deleted meanwhile
		case err != nil:
			return nil, err
		case i.state != stateDead:
			all = append(all, Held{k.path(id), i.tag})
		}
	}
	return all, nil
}

// Supported is nil when this kernel can do it for this process, or says what is
// missing. Errors: ErrUnsupported, and what the driver says.
func Supported() error {
	d, err := openUsable()
	if err != nil {
		return err
	}
	_, err = supported(d)
	return errors.Join(err, d.Close())
}

// hostPIDs is the pid namespace of the host, PROC_PID_INIT_INO of
// include/linux/proc_ns.h.
const hostPIDs = "pid:[4026531836]"

// openUsable opens the driver for a process that can serve a device.
func openUsable() (*driver, error) {
	in, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("the pid namespace of this process: %w", err)
	}
	if err := inHostPIDs(in); err != nil {
		return nil, err
	}
	return openDriver()
}

// inHostPIDs: the driver compares the process that fetches with the number that it
// is told, as the host counts (ublk_ctrl_start_dev of ublk_drv.c).
func inHostPIDs(namespace string) error {
	if namespace == hostPIDs {
		return nil
	}
	return fmt.Errorf("%w: the driver knows processes by the numbers of the host, and this one is in another pid namespace (a container: --pid=host)", ErrUnsupported)
}
