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
	// Spans without a single object. What is unused in others serves only objects
	// of their sizes: it is not to be counted on.
	of := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	free := func() uint64 {
		metrics.Read(of)
		return of[0].Value.Uint64()
	}
	var room heapRoom
	tick := time.NewTicker(heapLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if room.low(free()) {
			runtime.GC()
			room.collected(free())
		}
	}
}

// heapRoom decides when a heap is collected: when half of what was free after the
// last time is gone. A heap that is all alive is left to grow, and has room again
// then. Pure policy; the zero value is one of which nothing is known.
type heapRoom struct {
	free uint64 // bytes, after the last collection, or since the heap grew
}

// low takes what is free now.
func (h *heapRoom) low(free uint64) bool {
	h.free = max(h.free, free)
	return free < h.free/2
}

// heapLeast is the room below which a heap counts as all alive: it would be
// collected at every look.
const heapLeast = 2 << 20

// collected takes what is free after a collection.
func (h *heapRoom) collected(free uint64) {
	h.free = free
	if free < heapLeast {
		h.free = 0
	}
}
