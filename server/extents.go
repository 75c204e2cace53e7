package server

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// extent is a run of bytes of the arena; off counts from its base.
type extent struct{ off, size int64 }

// extents is the free memory of an arena, all of it zero: first fit, neighbours joined.
// What is free can be had: several runs are taken when no one is long enough.
type extents struct {
	free []extent // by offset; no two touch, none is empty
	left int64    // sum of free
}

func newExtents(size int64) extents {
	return extents{free: []extent{{0, size}}, left: size}
}

// take takes size bytes: one run if there is one that is long enough, else several. It
// returns none when less is free.
func (e *extents) take(size int64) []extent {
	if size > e.left {
		return nil
	}
	i := slices.IndexFunc(e.free, func(x extent) bool { return x.size >= size })
	if i >= 0 {
		return []extent{e.cut(i, size)}
	}
	// The shortest first: they are of no use to others.
	slices.SortFunc(e.free, func(a, b extent) int { return cmp.Compare(a.size, b.size) })
	var runs []extent
	for size > 0 {
		x := e.cut(0, min(size, e.free[0].size))
		size -= x.size
		runs = append(runs, x)
	}
	slices.SortFunc(e.free, func(a, b extent) int { return cmp.Compare(a.off, b.off) })
	return runs
}

// cut takes the first bytes of a run.
func (e *extents) cut(i int, size int64) extent {
	f := &e.free[i]
	x := extent{f.off, size}
	f.off += size
	f.size -= size
	if f.size == 0 {
		e.free = slices.Delete(e.free, i, i+1)
	}
	e.left -= size
	return x
}

// give gives an extent back that take gave. Giving what is free panics.
func (e *extents) give(x extent) {
	i, _ := slices.BinarySearchFunc(e.free, x, func(a, b extent) int { return cmp.Compare(a.off, b.off) })
	if i > 0 && e.free[i-1].off+e.free[i-1].size > x.off || i < len(e.free) && x.off+x.size > e.free[i].off {
		panic(fmt.Sprintf("server: %d bytes at %d are free already", x.size, x.off))
	}
	e.left += x.size
	e.free = slices.Insert(e.free, i, x)
	if i+1 < len(e.free) && x.off+x.size == e.free[i+1].off {
		e.free[i].size += e.free[i+1].size
		e.free = slices.Delete(e.free, i+1, i+2)
	}
	if i > 0 && e.free[i-1].off+e.free[i-1].size == x.off {
		e.free[i-1].size += e.free[i].size
		e.free = slices.Delete(e.free, i, i+1)
	}
}

// check reports the first thing that is wrong with the list.
func (e *extents) check() error {
	var sum, end int64 = 0, math.MinInt64
	for i, f := range e.free {
		if f.size <= 0 || f.off <= end {
			return fmt.Errorf("free extent %d: %d bytes at %d after %d", i, f.size, f.off, end)
		}
		sum, end = sum+f.size, f.off+f.size
	}
	if sum != e.left {
		return fmt.Errorf("%d bytes are free, not %d", sum, e.left)
	}
	return nil
}
