package server

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// arena is the memory that the server lends: one mapping outside the Go heap,
// populated and locked at start. Pages that nobody may touch lie on both sides:
// it is a mapping of its own in the kernel's tables, and what runs past its end
// does not write to another one.
type arena struct {
	mem    []byte
	whole  []byte // with the pages on both sides
	locked bool
}

// newArena maps size bytes. When the system refuses to lock them it fails,
// unless swappable.
func newArena(size int64, swappable bool) (*arena, error) {
	fence := os.Getpagesize()
	whole, err := unix.Mmap(-1, 0, int(size)+2*fence, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes of memory to lend: %w", size, err)
	}
	mem := whole[fence : fence+int(size) : fence+int(size)]
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %d bytes of memory to lend: %w", size, err), unix.Munmap(whole))
	}
	a := &arena{mem: mem, whole: whole}
	// Large pages make the copies cheaper; without them it works as well.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	// A child would double the memory, and has no business with it.
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
	// Locking populates.
	if err := unix.Mlock(mem); err == nil {
		a.locked = true
		return a, nil
	} else if !swappable {
		_ = unix.Munmap(whole)
		return nil, fmt.Errorf("locking %d bytes of memory: %w: raise the limit (ulimit -l, LimitMEMLOCK= in systemd), grant CAP_IPC_LOCK, lend less, or allow swappable memory, which may deadlock when this machine swaps", size, err)
	}
	a.touch(mem) // it must exist when it is needed
	return a, nil
}

// vacate gives an extent's memory back to the system: it stays mapped, and
// reads as zeros. The caller makes sure that nobody uses it.
func (a *arena) vacate(x extent) error {
	mem := a.mem[x.off : x.off+x.size]
	if a.locked {
		if err := unix.Munlock(mem); err != nil {
			return fmt.Errorf("unlocking %d bytes: %w", x.size, err)
		}
	}
	if err := unix.Madvise(mem, unix.MADV_DONTNEED); err != nil {
		return errors.Join(fmt.Errorf("giving %d bytes back: %w", x.size, err), a.populate(x))
	}
	return nil
}

// populate is the opposite of vacate: the memory exists, and is locked if the
// arena is.
func (a *arena) populate(x extent) error {
	mem := a.mem[x.off : x.off+x.size]
	if a.locked {
		if err := unix.Mlock(mem); err != nil {
			return errors.Join(fmt.Errorf("locking %d bytes: %w", x.size, err), unix.Munlock(mem), unix.Madvise(mem, unix.MADV_DONTNEED))
		}
		return nil
	}
	a.touch(mem)
	return nil
}

// touch makes memory exist that is not locked.
func (a *arena) touch(mem []byte) {
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 0
	}
}

func (a *arena) close() error {
	if a.mem == nil {
		return nil
	}
	err := unix.Munmap(a.whole)
	a.mem, a.whole = nil, nil
	if err != nil {
		return fmt.Errorf("unmapping the arena: %w", err)
	}
	return nil
}
