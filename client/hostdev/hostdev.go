// Package hostdev answers one question: which block devices of this host hold
// which volume, whatever their kind. Attach, detach and doctor ask it here and
// nowhere else: a volume with two devices loses what was swapped out to one.
package hostdev

import (
	"fmt"

	"dmps/client/nbddev"
	"dmps/client/ublk"
	"dmps/internal/blockdev"
)

// Device is a block device that the kernel has for a volume.
type Device = blockdev.Device

// lists are what the drivers say.
type lists struct {
	nbd  func() ([]nbddev.Held, error)
	ublk func() ([]ublk.Held, error)
}

var kernel = lists{nbddev.List, ublk.List}

// List returns the devices of all volumes. An error means that nobody can tell:
// there may be more. A driver that is not loaded has none.
func List() ([]Device, error) { return kernel.list() }

// Of returns the devices of one volume, which are none or one. Two are the work
// of somebody else, and nobody can say which holds what is out.
func Of(identity string) ([]Device, error) { return kernel.of(identity) }

func (l lists) list() ([]Device, error) {
	var all []Device
	n, err := l.nbd()
	if err != nil {
		return nil, fmt.Errorf("looking for the nbd devices of volumes: %w", err)
	}
	for _, d := range n {
		all = append(all, Device{Path: d.Path, Kind: "nbd", Owner: ublk.Tag(d.Identifier)})
	}
	u, err := l.ublk()
	if err != nil {
		return nil, fmt.Errorf("looking for the ublk devices of volumes: %w", err)
	}
	for _, d := range u {
		all = append(all, Device{Path: d.Path, Kind: "ublk", Owner: d.Tag})
	}
	return all, nil
}

func (l lists) of(identity string) ([]Device, error) {
	all, err := l.list()
	if err != nil {
		return nil, err
	}
	var mine []Device
	for _, d := range all {
		if d.Owner == ublk.Tag(identity) {
			mine = append(mine, d)
		}
	}
	return mine, nil
}
