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

// unthrottle is what Unthrottle does, in a process that does not serve the device.
func unthrottle(sysfs, name string) error {
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
