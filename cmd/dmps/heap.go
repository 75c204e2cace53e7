package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"dmps/internal/bytesize"
	"dmps/internal/memlock"
)

// heapReserve is how much the Go heap of a client can grow without a page
// fault: what opening connections, reports and answers to questions take, many
// times over. The page path takes nothing.
const heapReserve = 16 * bytesize.MiB

// settleHeap makes the Go heap a fixed cost: it may take limit, near which the
// collector works harder instead of taking more, and with locked memory what it
// has and soon needs is in memory. Page buffers are outside of it.
//
// With locked memory the collector's own pace is taken from it until ctx ends:
// it would let the heap grow to a multiple of what lives, pages that a kernel
// without memory had to find, and give back what is more than that, by a call
// that for locked memory maps fresh pages in their place.
func settleHeap(ctx context.Context, limit bytesize.Size, locked bool) error {
	debug.SetMemoryLimit(int64(limit))
	if !locked {
		return nil
	}
	reserve := make([]byte, heapReserve)
	if err := memlock.Populate(); err != nil {
		return err
	}
	runtime.KeepAlive(reserve)
	percent := debug.SetGCPercent(-1) // the limit still collects
	runtime.GC()
	go func() {
		defer debug.SetGCPercent(percent)
		keepHeap(ctx)
	}()
	return nil
}

// heapLook is how often a kept heap is looked at.
const heapLook = 100 * time.Millisecond

// keepHeap collects before a heap would have to grow.
func keepHeap(ctx context.Context) {
	of := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	read := func() (used, size uint64) {
		metrics.Read(of)
		used = of[0].Value.Uint64()
		return used, used + of[1].Value.Uint64() + of[2].Value.Uint64()
	}
	used, size := read()
	h := heapRoom{live: used, size: size}
	tick := time.NewTicker(heapLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if used, _ := read(); h.full(used) {
			runtime.GC()
			h.collected(read())
		}
	}
}

// heapRoom decides when a heap is collected. Pure policy.
type heapRoom struct {
	live uint64 // bytes after the last collection
	size uint64 // bytes that the heap has from the system
}

// full reports whether a heap that now uses so many bytes is to be collected:
// three quarters of the room between what lives and what there is are gone.
func (h *heapRoom) full(used uint64) bool {
	room := uint64(0)
	if h.size > h.live {
		room = h.size - h.live
	}
	return used >= h.live+room/4*3
}

// collected takes what a collection has left. A heap that is nearly all alive has
// to grow after all, or it would be collected at every look.
func (h *heapRoom) collected(used, size uint64) {
	h.live, h.size = used, max(size, used+uint64(heapReserve)/4)
}
