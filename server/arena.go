package server

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arena is memory outside the Go heap, such as what the server lends: one mapping at
// first, populated and locked. Pages that nobody may touch lie on both sides: it is a
// mapping of its own in the kernel's tables, and what runs past its end does not write
// to another one. Parts of it may be exchanged for others later (mappings.go).
type arena struct {
	mem    []byte         // as it was mapped
	base   unsafe.Pointer // where extents count from: their off may be negative
	locked bool

	mu    sync.Mutex
	maps  mappings
	limit int // mappings that it may have; 0: not looked up yet
}

// newArena maps size bytes. When the system refuses to lock them it fails,
// unless swappable.
func newArena(size int64, swappable bool) (*arena, error) {
	fence := os.Getpagesize()
	size = (size + int64(fence) - 1) / int64(fence) * int64(fence)
	whole, err := unix.MmapPtr(-1, 0, nil, uintptr(size)+2*uintptr(fence), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes of memory to lend: %w", size, err)
	}
	a := &arena{base: unsafe.Add(whole, fence), maps: mappings{{0, size}}}
	mem := a.bytes(extent{0, size})
	a.mem = mem
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %d bytes of memory to lend: %w", size, err), a.close())
	}
	a.advise(mem)
	// Locking populates.
	if err := unix.Mlock(mem); err == nil {
		a.locked = true
		return a, nil
	} else if !swappable {
		_ = a.close()
		return nil, fmt.Errorf("locking %d bytes of memory: %w: raise the limit (ulimit -l, LimitMEMLOCK= in systemd), grant CAP_IPC_LOCK, lend less, or allow swappable memory, which may deadlock when this machine swaps", size, err)
	}
	a.touch(mem) // it must exist when it is needed
	return a, nil
}

// advise tells the system what memory is for.
func (a *arena) advise(mem []byte) {
	// Large pages make the copies cheaper; without them it works as well.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	// A child would double the memory, and has no business with it.
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
}

// vacate gives an extent's memory back to the system: it stays mapped, and
// reads as zeros. The caller makes sure that nobody uses it.
func (a *arena) vacate(x extent) error {
	mem := a.bytes(x)
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
	mem := a.bytes(x)
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
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mem == nil {
		return nil
	}
	page := int64(os.Getpagesize())
	var errs []error
	for _, x := range append(a.maps, extent{-page, page}, extent{int64(len(a.mem)), page}) {
		errs = append(errs, unix.MunmapPtr(a.pointer(x.off), uintptr(x.size)))
	}
	a.mem, a.maps = nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unmapping the arena: %w", err)
	}
	return nil
}
