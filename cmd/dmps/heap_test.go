package main

import (
	"testing"

	"dmps/internal/bytesize"
)

// TestHeapLimit: a heap keeps the size that it was filled to, and has more only
// when it would be collected all the time, up to what the user allows.
func TestHeapLimit(t *testing.T) {
	const mib = int64(bytesize.MiB)
	for _, c := range []struct {
		name       string
		live, most int64
		more       int64 // live grows by it
		raises     int
	}{
		{"as it was", 8 * mib, 256 * mib, 0, 0},
		{"a little more", 8 * mib, 256 * mib, 6 * mib, 0},
		{"much more", 8 * mib, 256 * mib, 30 * mib, 2},
		{"much more than allowed", 8 * mib, 40 * mib, 30 * mib, 1},
		{"map of a large volume", 4096 * mib, (4096 + 256) * mib, 0, 0},
	} {
		const other = 6 * bytesize.MiB
		s := heapState{mapped: c.live + int64(clientReserve) + int64(other), heap: c.live + int64(clientReserve), live: c.live}
		h := heapLimit{most: c.most, step: int64(clientReserve)}
		if got := h.set(s); got < min(s.mapped, c.most) || got > s.mapped*106/100 {
			t.Errorf("%s: %d MiB of limit for %d", c.name, got/mib, s.mapped/mib)
		}
		s.live += c.more
		n := 0
		if h.raise(s) {
			t.Errorf("%s: raised before anything was collected", c.name)
		}
		s.cycles++
		for h.raise(s) {
			n++
		}
		if n != c.raises || h.present > c.most {
			t.Errorf("%s: raised %d times, to %d MiB", c.name, n, h.present/mib)
		}
	}
	if s := readHeap(); s.mapped < s.heap || s.heap <= 0 {
		t.Errorf("%+v", s)
	}
}

// TestHeapRefill: a heap is filled again whenever more of it was given back, and
// only then.
func TestHeapRefill(t *testing.T) {
	h := heapLimit{lacking: 100}
	for i, c := range []struct {
		released int64
		want     bool
	}{{100, false}, {90, false}, {95, true}, {95, false}, {300, true}} {
		if got := h.refill(heapState{released: c.released}); got != c.want {
			t.Errorf("%d: %d released: %v", i, c.released, got)
		}
	}
}
