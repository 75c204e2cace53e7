package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"dmps/internal/swapctl"
)

// errSwappedSince: the volume holds the pages of somebody else.
var errSwappedSince = errors.New("somebody else has swapped to this volume, or written over its swap header, since this machine began to")

// stillOurs refuses a device that this boot swaps to when the volume's header is not as this
// boot left it. A lease runs out while a device waits: whoever attached the volume since
// then has discarded what was out, or lies over it. Programs would get his pages for their own.
func stillOurs(ctx context.Context, path, boot string, volume io.ReaderAt, find func(path string) (*swapctl.Space, error)) error {
	space, err := find(path)
	if err != nil || space == nil {
		return err
	}
	page, read := make([]byte, swapctl.HeaderBytes), make(chan error, 1)
	go func() {
		_, err := volume.ReadAt(page, 0)
		read <- err
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("reading the swap header of the volume: %w", ctx.Err())
	case err := <-read:
		if err != nil {
			return fmt.Errorf("reading the swap header of the volume: %w", err)
		}
	}
	// Without a boot in it, it was mkswap that made it, or a client that did not know.
	if h, ok := swapctl.Decode(page); ok && (h.Boot == "" || h.Boot == boot) {
		return nil
	}
	return &advised{fmt.Errorf("going on with %s: %w: %s that this machine has out there are lost", path, errSwappedSince, human(uint64(space.Used))),
		"Its requests wait: they are not answered with somebody else's pages. Programs whose pages are out cannot go on: disconnect the device, or restart the machine. If it was you who ran mkswap or swapon on it: attach without --swap."}
}
