package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotInGuest says that this machine is no guest of Spec.Run's.
var ErrNotInGuest = errors.New("this runs in a guest of chaos/kernel only: it would swap to devices that fail")

// InGuest refuses any machine that may not be lost: a guest's kernel was started
// with a word that no other is (GuestWord), its process 1 is this program
// (InitPath), and its root is the initrd itself. Errors: ErrNotInGuest.
func InGuest() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotInGuest, err)
	}
	if !slices.Contains(strings.Fields(string(line)), GuestWord) {
		return fmt.Errorf("%w: its kernel was started without %s", ErrNotInGuest, GuestWord)
	}
	first, err := os.ReadFile("/proc/1/cmdline")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotInGuest, err)
	}
	if !bytes.HasPrefix(first, []byte(InitPath+"\x00")) {
		return fmt.Errorf("%w: process 1 is %q", ErrNotInGuest, first)
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return fmt.Errorf("%w: %w", ErrNotInGuest, err)
	}
	if st.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("%w: its root file system is no ramfs", ErrNotInGuest)
	}
	return nil
}
