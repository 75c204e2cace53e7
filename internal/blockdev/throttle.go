package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Unthrottle has the kernel write to a device whatever its reads take. name is
// the device's, such as nbd0; sysfs is where that file system is.
//
// Writeback throttling (wbt_lat_usec in Documentation/ABI/stable/sysfs-block) makes
// writers wait while reads take longer than 2 ms, which is what a disk can do in
// that time. Over a network, and under load, they do; and the writer that it makes wait
// is then kswapd, whom everybody needs to have memory. A kernel without it has
// nothing to set.
//
// The kernel lets requests in flight end before it changes a queue, and holds new
// ones until then: this is for a device that is not in use yet. What is off is
// left alone.
func Unthrottle(sysfs, name string) error {
	file := filepath.Join(sysfs, "block", name, "queue", "wbt_lat_usec")
	now, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(now)) == "0" {
		return nil
	}
	err = os.WriteFile(file, []byte("0"), 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("turning off the throttling of writes to %s: %w", name, err)
}
