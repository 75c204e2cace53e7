package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// swap makes the device the guest's only swap device, and returns the function
// that ends that. size bytes of it are used.
func (b *Bed) swap(ctx context.Context, d device) (func() error, error) {
	if err := Guard(); err != nil {
		return nil, err
	}
	if err := run(ctx, "mkswap", d.path); err != nil {
		return nil, err
	}
	path, err := unix.BytePtrFromString(d.path)
	if err != nil {
		return nil, err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		return nil, fmt.Errorf("swapon %s: %w", d.path, errno)
	}
	return func() error {
		if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
			return fmt.Errorf("swapoff %s: %w", d.path, errno)
		}
		return nil
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
			return errors.Join(fmt.Errorf("unmounting %s: %w", d.path, err))
		}
		return nil
	}, nil
}
