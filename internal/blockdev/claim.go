package blockdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrInUse says that a block device is swapped to, mounted, part of another
// device, or open.
var ErrInUse = errors.New("device is in use")

// claim is what Claim does, in a process that does not serve the device.
func claim(path string) (release func() error, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%s: %w: swapped to, mounted, or part of another device", path, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("claiming %s: %w", path, err)
	}
	who, err := openers(path)
	if err == nil && who != "" {
		err = fmt.Errorf("%s: %w: process %s has it open", path, ErrInUse, who)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return func() error { return unix.Close(fd) }, nil
}

// openers is the number of a process other than this one that has the file
// open, or nothing.
func openers(path string) (string, error) {
	procs, err := names("/proc")
	if err != nil {
		return "", fmt.Errorf("looking for who has %s open: %w", path, err)
	}
	self := fmt.Sprint(os.Getpid())
	for _, pid := range procs {
		if pid == self || pid[0] < '0' || pid[0] > '9' {
			continue
		}
		fds, err := names("/proc/" + pid + "/fd")
		if err != nil {
			continue // it has ended meanwhile
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/" + pid + "/fd/" + fd); err == nil && to == path {
				return pid, nil
			}
		}
	}
	return "", nil
}

// names lists a folder, without looking at what is in it.
func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	list, err := f.Readdirnames(-1)
	return list, errors.Join(err, f.Close())
}
