package main

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"dmps/internal/bytesize"
	"dmps/internal/memlock"
)

// How much the Go heap can grow without a page fault: what opening connections,
// reports and answers to questions take, many times over. The page path takes
// nothing. A server does less of that, and a machine has more of them.
const (
	clientReserve = 16 * bytesize.MiB
	serverReserve = 8 * bytesize.MiB
)

// settleHeap makes the Go heap a fixed cost: it may take limit, near which the
// collector works harder instead of taking more, and with locked memory what it
// has and soon needs, reserve more, is in memory. Page buffers are outside of it.
//
// With locked memory the collector's own pace is taken from it until ctx ends.
// It would let the heap grow to a multiple of what lives, pages that a kernel
// without memory had to find; and it would give back what is more than that, by a
// call that for locked memory maps fresh pages in their place. Instead the heap is
// collected when what was filled here is used up, and what is given back all the
// same, because something else than the heap grew, is filled again.
func settleHeap(ctx context.Context, limit bytesize.Size, locked bool, reserve bytesize.Size, log *slog.Logger) error {
	debug.SetMemoryLimit(int64(limit))
	if !locked {
		return nil
	}
	filled := make([]byte, reserve)
	if err := memlock.Populate(); err != nil {
		return err
	}
	percent := debug.SetGCPercent(-1) // by the limit alone
	h := heapLimit{most: int64(limit), step: int64(reserve)}
	debug.SetMemoryLimit(h.set(readHeap()))
	// The scavenger keeps what was in use at the last collection, times the ratio
	// of the goals of now and then (runtime, mgcscavenge.go). So it has to be one
	// with this goal, and of a heap that is full.
	runtime.GC()
	runtime.KeepAlive(filled)
	// What the scavenger gave back until then is filled once more.
	s := readHeap()
	if err := memlock.Populate(); err != nil {
		return err
	}
	h.since, h.lacking = s.cycles, s.released
	go func() {
		defer debug.SetGCPercent(percent)
		h.keep(ctx, log)
	}()
	return nil
}

// heapState is what Go has of the system, in bytes.
type heapState struct {
	mapped   int64 // all, but for what was given back
	released int64 // of the heap: given back, or not used yet
	heap     int64 // of what is mapped, for objects
	live     int64 // objects that the last collection found alive
	cycles   int64 // collections so far
}

func readHeap() heapState {
	s := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(s)
	v := func(i int) int64 { return int64(s[i].Value.Uint64()) }
	return heapState{mapped: v(0) - v(1), released: v(1), heap: v(2) + v(3) + v(4), live: v(5), cycles: v(6)}
}

// heapLimit is the memory limit of a locked heap. Pure policy, but for keep.
type heapLimit struct {
	most    int64 // what the user allows
	step    int64 // by how much it is raised: the reserve
	present int64
	since   int64 // collections before what they found alive was without the reserve
	lacking int64 // released when the heap was last filled
}

// Of a memory limit the collector leaves 3 % free, and the scavenger gives back
// what is above 95 % of it (runtime, mgcpacer.go and mgcscavenge.go).
const retained = 95

// set takes what there is for the limit.
func (h *heapLimit) set(s heapState) int64 {
	h.present = min(s.mapped*100/retained, h.most)
	return h.present
}

// raise reports whether so much of the heap is alive that it would be collected
// all the time, and raises the limit by the reserve.
func (h *heapLimit) raise(s heapState) bool {
	room := h.present*retained/100 - (s.mapped - s.heap) - s.live
	if s.cycles <= h.since || room >= h.step/2 || h.present >= h.most {
		return false
	}
	h.present = min(h.present+h.step, h.most)
	return true
}

// refill reports whether more of the heap was given back since it was last filled.
func (h *heapLimit) refill(s heapState) bool {
	more := s.released > h.lacking
	h.lacking = s.released
	return more
}

// heapLook is how often a locked heap is looked at.
const heapLook = 5 * time.Second

func (h *heapLimit) keep(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(heapLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := readHeap()
		if h.raise(s) {
			debug.SetMemoryLimit(h.present)
		}
		if h.refill(s) {
			if err := memlock.Populate(); err != nil {
				log.Error("the heap may wait for memory: a part of it that was given back could not be filled again", "error", err)
			}
		}
	}
}
