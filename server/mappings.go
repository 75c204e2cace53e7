package server

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory that is free may lie in runs of which none is long enough for a chunk. Then some
// are exchanged for one of the same size, a piece at a time: a piece goes back to the
// system, and as much is populated and locked where the chunk is to lie. What is free
// holds nothing, so nothing is copied, and nobody refers to its old addresses. A chunk is
// one mapping of the kernel's all its life; moving pages instead (mremap) leaves it in as
// many as it had runs, and they become more with each that is put together.

// gatherPiece is the most that is neither here nor there at a time, in bytes.
const gatherPiece = 2 << 20

// mappings are the ranges of addresses at which an arena's memory is: by address, none
// is empty, no two overlap.
type mappings []extent

// add enters x.
func (m mappings) add(x extent) mappings {
	i, _ := slices.BinarySearchFunc(m, x.off, func(x extent, off int64) int { return cmp.Compare(x.off, off) })
	return slices.Insert(m, i, x)
}

// remove takes x out, all of which is there.
func (m mappings) remove(x extent) mappings {
	i, ok := slices.BinarySearchFunc(m, x.off, func(x extent, off int64) int { return cmp.Compare(x.off, off) })
	if !ok {
		i--
	}
	j, end := i, x.off+x.size
	for j < len(m) && m[j].off < end {
		j++
	}
	var rest []extent
	if before := (extent{m[i].off, x.off - m[i].off}); before.size > 0 {
		rest = append(rest, before)
	}
	if after := (extent{end, m[j-1].off + m[j-1].size - end}); after.size > 0 {
		rest = append(rest, after)
	}
	return slices.Replace(m, i, j, rest...)
}

// gathered is what became of runs that were to be put together: got is their memory as
// one. If it failed, free is what is in order, and back what the system has and did not
// give again.
type gathered struct {
	got, back extent
	free      []extent
}

// gather puts free runs together. A process has a limited number of mappings, and Go's
// runtime dies without any: at most half of them are used.
func (a *arena) gather(runs []extent) (gathered, error) {
	var size int64
	for _, r := range runs {
		size += r.size
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if most := a.mostMappings(); 2*(len(a.maps)+len(runs)) > most {
		return gathered{free: runs}, fmt.Errorf("%d bytes are free in runs that are too short, and its memory is in %d mappings already: raise vm.max_map_count, which is %d", size, len(a.maps), 2*most)
	}
	at, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return gathered{free: runs}, fmt.Errorf("mapping %d bytes: %w", size, err)
	}
	x := extent{int64(uintptr(at)) - int64(uintptr(a.base)), size}
	a.advise(a.bytes(x))
	var taken, there int64 // of size: given to the system, and had again
	for i, r := range runs {
		for r.size > 0 {
			n := min(r.size, there+gatherPiece-taken) // whole pieces, for the sake of large pages
			if err = a.release(extent{r.off, n}); err == nil {
				r, taken = extent{r.off + n, r.size - n}, taken+n
				if taken-there == gatherPiece || taken == size {
					err = a.populate(extent{x.off + there, taken - there})
				}
			}
			if err != nil {
				g := gathered{back: extent{x.off + there, taken - there}}
				for _, f := range append([]extent{{x.off, there}, r}, runs[i+1:]...) {
					if f.size > 0 {
						g.free = append(g.free, f)
					}
				}
				return g, errors.Join(fmt.Errorf("putting %d bytes together: %w", size, err), a.keep(x, taken))
			}
			if taken-there == gatherPiece {
				there = taken
			}
		}
	}
	return gathered{got: x}, a.keep(x, size)
}

// keep enters the first n bytes of a new mapping, and lets go of the others.
func (a *arena) keep(x extent, n int64) error {
	if n > 0 {
		a.maps = a.maps.add(extent{x.off, n})
	}
	if n == x.size {
		return nil
	}
	return unix.MunmapPtr(a.pointer(x.off+n), uintptr(x.size-n))
}

// release gives memory to the system, with its addresses.
func (a *arena) release(x extent) error {
	if err := unix.MunmapPtr(a.pointer(x.off), uintptr(x.size)); err != nil {
		return fmt.Errorf("releasing %d bytes: %w", x.size, err)
	}
	a.maps = a.maps.remove(x)
	return nil
}

// mostMappings is half of those that a process may have.
func (a *arena) mostMappings() int {
	if a.limit != 0 {
		return a.limit
	}
	a.limit = 65530 / 2 // Linux's default
	if b, err := os.ReadFile("/proc/sys/vm/max_map_count"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			a.limit = n / 2
		}
	}
	return a.limit
}

func (a *arena) pointer(off int64) unsafe.Pointer { return unsafe.Add(a.base, off) }

// bytes is the memory of an extent.
func (a *arena) bytes(x extent) []byte {
	return unsafe.Slice((*byte)(a.pointer(x.off)), x.size)
}
