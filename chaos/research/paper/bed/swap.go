package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dmps/chaos/kernel"
	"dmps/internal/swapctl"
)

// swap makes the device the guest's only swap device, and returns the function
// that ends that.
func (b *Bed) swap(d device) (off func() error, err error) {
	if err := kernel.InGuest(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	_, err = swapctl.Format(f, d.size, "paper", "", true)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := swapctl.On(d.path, swapctl.DefaultPriority, true); err != nil {
		return nil, err
	}
	return func() error {
		for {
			// Go's own signals interrupt it; what is back stays back.
			if err := swapctl.Off(d.path); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	}, nil
}

// mounted makes an ext4 on the device, mounts it, and returns where, and the
// function that unmounts it.
func (b *Bed) mounted(ctx context.Context, d device) (dir string, unmount func() error, err error) {
	// -E lazy_itable_init=0: nothing is initialised in the background while it is
	// measured. nodiscard: the device is new.
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", d.path, fmt.Sprintf("%dk", d.size>>10)); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(b.Dir, "mnt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	if err := unix.Mount(d.path, dir, "ext4", 0, ""); err != nil {
		return "", nil, fmt.Errorf("mounting %s: %w", d.path, err)
	}
	return dir, func() error {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmounting %s: %w", d.path, err)
		}
		return nil
	}, nil
}
