package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// disk is a small file system of its own for the state of a metadata node.
type disk struct {
	dir     string
	mounted bool
	why     string // it is none
}

// diskSize is enough for the state of a small cluster.
const diskSize = "32m"

// mountDisk makes dir and mounts a disk there. Where that is not permitted, dir
// is a plain folder, which cannot be filled.
func mountDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder of a metadata node: %w", err)
	}
	d := &disk{dir: dir}
	if err := unix.Mount("chaos", dir, "tmpfs", 0, "size="+diskSize+",mode=0755"); err != nil {
		d.why = fmt.Sprintf("no disk of its own can be mounted for the metadata node: %v", err)
		return d, nil
	}
	d.mounted = true
	return d, nil
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes all space that is left.
func (d *disk) fill() (err error) {
	if !d.mounted {
		return skipped("%s", d.why)
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		return fmt.Errorf("filling a disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for size := 1 << 20; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return fmt.Errorf("filling a disk: %w", err)
		}
	}
	return nil
}

// empty gives the space back.
func (d *disk) empty() error {
	if err := os.Remove(d.ballast()); err != nil {
		return fmt.Errorf("emptying a disk: %w", err)
	}
	return nil
}

// unmount must not leave a mount behind, even if somebody still has a file open.
func (d *disk) unmount() error {
	if !d.mounted {
		return nil
	}
	err := unix.Unmount(d.dir, 0)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(d.dir, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", d.dir, err)
	}
	d.mounted = false
	return nil
}
