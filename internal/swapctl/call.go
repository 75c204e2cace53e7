package swapctl

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of swapon(2), include/linux/swap.h.
const (
	flagPrefer   = 0x8000
	flagPriority = 0x7fff
	flagDiscard  = 0x10000 // freed pages, and at once all that is there
	flagPages    = 0x40000 // with flagDiscard: freed pages only
)

// MaxPriority is the highest priority of swap space.
const MaxPriority = flagPriority

// DefaultPriority leaves the choice to the kernel: below all others.
const DefaultPriority = -1

// On has the kernel swap to a device, and tell it about pages that it needs no
// more: at once about all that is there, if it is dead (Prepared). Of several
// spaces the one with the highest priority is filled first.
func On(path string, priority int, dead bool) error {
	return call(unix.SYS_SWAPON, "swapon", path, onFlags(priority, dead))
}

func onFlags(priority int, dead bool) uintptr {
	flags := flagDiscard
	if !dead {
		flags |= flagPages
	}
	if priority >= 0 {
		flags |= flagPrefer | min(priority, MaxPriority)
	}
	return uintptr(flags)
}

// Off brings back what lies in a swap space and ends its use. It takes as long
// as that takes; a signal to the thread interrupts it with EINTR, and a part is
// back then.
func Off(path string) error { return call(unix.SYS_SWAPOFF, "swapoff", path, 0) }

func call(trap uintptr, name, path string, flags uintptr) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, path, err)
	}
	if _, _, errno := unix.Syscall(trap, uintptr(unsafe.Pointer(p)), flags, 0); errno != 0 {
		return fmt.Errorf("%s %s: %w", name, path, errno)
	}
	return nil
}
