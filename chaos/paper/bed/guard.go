package bed

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dmps/chaos/kernel"
)

// ErrNoGuest: this machine is not a guest made for measuring. Do not try
// elsewhere: run make paper.
var ErrNoGuest = errors.New("not in a guest made for measuring")

// Guard reports whether this is a guest that may be swapped to pieces: its
// kernel was started with the word of package kernel's guests, and its root is
// the initrd itself (ramfs). No machine that is used for anything else has
// either.
func Guard() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuest, err)
	}
	if !slices.Contains(strings.Fields(string(line)), kernel.GuestWord) {
		return fmt.Errorf("%w: its kernel was started without %s", ErrNoGuest, kernel.GuestWord)
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuest, err)
	}
	if st.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("%w: the root file system is no ramfs", ErrNoGuest)
	}
	return nil
}
