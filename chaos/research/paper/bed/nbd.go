package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dmps/client/nbddev"
	"dmps/internal/nbdclient"
)

// nbdIndex is the device that a plain server becomes.
const nbdIndex = 0

var nbdPath = fmt.Sprintf("/dev/nbd%d", nbdIndex)

// dmpsPath is the device that a volume becomes, by the front end that is the
// default where the kernel has it (docs/kernel.md).
const dmpsPath = "/dev/ublkb0"

// sendBuffer is what the kernel may have sent and not delivered, in bytes: what
// dmps' own sockets have. All requests together fit into it (queue).
const sendBuffer = 8 << 20

// kernelNBD makes a plain NBD server the block device nbdPath, by one
// connection. Nobody but a measurement attaches like this: there is no new
// connection when it breaks.
func kernelNBD(ctx context.Context, address string) (detach func() error, err error) {
	fail := func(err error) (func() error, error) { return nil, fmt.Errorf("attaching %s: %w", nbdPath, err) }
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, c.Close()) }() // the kernel has its own reference
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return fail(err)
	}
	export, err := nbdclient.Negotiate(c, "")
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return fail(fmt.Errorf("negotiating: %w", err))
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.SetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer); err != nil {
		return fail(fmt.Errorf("send buffer: %w", err))
	}
	driver, err := nbddev.OpenDriver()
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	_, err = driver.Connect(nbddev.Connection{
		Index: nbdIndex, Sockets: []int{int(f.Fd())}, Size: export.Size, BlockSize: 4096, Flags: export.Flags,
		Timeout: time.Minute, DeadTimeout: time.Minute,
	})
	if err != nil {
		return fail(err)
	}
	return func() error {
		driver, err := nbddev.OpenDriver()
		if err != nil {
			return err
		}
		return errors.Join(driver.Disconnect(nbdIndex), driver.Close(), gone(nbdPath))
	}, queue(nbdPath)
}

// queue gives the device of the plain server the settings that dmps gives its
// own (package nbddev), so that they are compared in the same place.
func queue(path string) error {
	dir := filepath.Join("/sys/class/block", filepath.Base(path), "queue")
	var errs []error
	for name, value := range map[string]string{"scheduler": "none", "nr_requests": "16", "max_sectors_kb": "128", "rotational": "0", "read_ahead_kb": "128", "wbt_lat_usec": "0"} {
		errs = append(errs, setting(filepath.Join(dir, name), value))
	}
	return errors.Join(errs...)
}

// connected reports whether the device at path is served: it is there, has a
// size, and, if it is an NBD device, somebody who has connected it.
func connected(path string) (bool, error) {
	n, err := number(filepath.Join("/sys/class/block", filepath.Base(path), "size"))
	if err == nil && n > 0 {
		_, err = os.Stat(served(path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return n > 0, err
}

// served is what sysfs has of a device as long as somebody serves it: NBD
// devices stay when nobody does.
func served(path string) string {
	dir := filepath.Join("/sys/class/block", filepath.Base(path))
	if path == nbdPath {
		return filepath.Join(dir, "pid")
	}
	return dir
}

// gone waits until the kernel has forgotten the device at path: it disconnects
// behind the caller's back, and who connects the next one in that time may get
// the end of the last.
func gone(path string) error {
	for end := time.Now().Add(startTime); ; time.Sleep(50 * time.Millisecond) { // nothing tells
		_, err := os.Stat(served(path))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not go away", path)
		}
	}
}
