package bed

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoGuest: this machine is not a guest made for measuring. Do not try
// elsewhere: run make paper.
var ErrNoGuest = errors.New("not in a guest made for measuring")

// Guard reports whether this is a guest that may be swapped to pieces: its root
// is the initrd itself (ramfs). No machine that is used for anything else has
// that.
func Guard() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return fmt.Errorf("%w: %w", ErrNoGuest, err)
	}
	if st.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("%w: the root file system is no ramfs", ErrNoGuest)
	}
	return nil
}
