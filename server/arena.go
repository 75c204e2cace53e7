package server

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// arena is the memory that the server lends: one mapping outside the Go heap,
// populated and locked at start.
type arena struct {
	mem    []byte
	locked bool
}

// newArena maps size bytes. When the system refuses to lock them it fails,
// unless swappable.
func newArena(size int64, swappable bool) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes of memory to lend: %w", size, err)
	}
	a := &arena{mem: mem}
	// Large pages make the copies cheaper; without them it works as well.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	// A child would double the memory, and has no business with it.
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
	// Locking populates.
	if err := unix.Mlock(mem); err == nil {
		a.locked = true
		return a, nil
	} else if !swappable {
		_ = unix.Munmap(mem)
		return nil, fmt.Errorf("locking %d bytes of memory: %w: raise the limit (ulimit -l, LimitMEMLOCK= in systemd), grant CAP_IPC_LOCK, lend less, or allow swappable memory, which may deadlock when this machine swaps", size, err)
	}
	page := os.Getpagesize()
	for i := 0; i < len(mem); i += page {
		mem[i] = 0 // touch: the memory must exist when it is needed
	}
	return a, nil
}

func (a *arena) close() error {
	if a.mem == nil {
		return nil
	}
	err := unix.Munmap(a.mem)
	a.mem = nil
	if err != nil {
		return fmt.Errorf("unmapping the arena: %w", err)
	}
	return nil
}
