package main

import (
	"testing"

	"dmps/internal/bytesize"
)

// TestHeapRoom: garbage is collected before the heap has to grow, and not at
// every look; a heap that is all alive is given room.
func TestHeapRoom(t *testing.T) {
	const mib = uint64(bytesize.MiB)
	for _, c := range []struct {
		name       string
		alive      uint64
		rate       uint64 // of garbage, a look
		most       uint64 // bytes used at most
		collects   int    // at least
		collectsNo int    // at most
	}{
		{"idle", 8 * mib, 1 << 10, 24 * mib, 0, 1},
		{"rebuild", 8 * mib, mib, 24 * mib, 80, 100},
		{"map of a large volume", 4096 * mib, mib, (4096 + 16) * mib, 80, 100},
	} {
		h := heapRoom{live: c.alive, size: c.alive + 16*mib}
		used, n := c.alive, 0
		for range 1000 {
			used += c.rate
			if used > c.most {
				t.Fatalf("%s: %d MiB in use", c.name, used/mib)
			}
			if h.full(used) {
				n++
				used = c.alive
				h.collected(used, c.alive+16*mib)
			}
		}
		if n < c.collects || n > c.collectsNo {
			t.Errorf("%s: %d collections", c.name, n)
		}
	}
	var h heapRoom
	h.collected(24*mib, 24*mib)
	if h.full(24*mib) || !h.full(28*mib) {
		t.Errorf("without room: %+v", h)
	}
}
