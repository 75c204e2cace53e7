package main

import (
	"testing"

	"dmps/internal/bytesize"
)

// TestHeapRoom: garbage is collected before the heap has to grow, and not at
// every look; a heap that is all alive grows, and is kept from then on.
func TestHeapRoom(t *testing.T) {
	const mib = uint64(bytesize.MiB)
	for _, c := range []struct {
		name        string
		room        uint64 // without garbage
		rate        uint64 // of garbage, a look
		least, most int    // collections in 1000 looks
	}{
		{"idle", 16 * mib, 1 << 10, 0, 0},
		{"rebuild", 16 * mib, mib, 100, 125},
		{"little room", 2 * mib, mib / 8, 100, 125},
		{"too little room", 2*mib - 1, 1 << 10, 0, 1},
		{"none left, then it grows", 0, 0, 0, 0},
	} {
		var h heapRoom
		free, n := c.room, 0
		for range 1000 {
			if free < c.rate {
				t.Fatalf("%s: it had to grow", c.name)
			}
			free -= c.rate
			if h.low(free) {
				n++
				free = c.room
				h.collected(free)
			}
		}
		if n < c.least || n > c.most {
			t.Errorf("%s: %d collections", c.name, n)
		}
	}
	var h heapRoom
	h.collected(0)
	if h.low(0) || h.low(4*mib) || !h.low(mib) {
		t.Error("a heap that had no room and has grown is not kept")
	}
}
