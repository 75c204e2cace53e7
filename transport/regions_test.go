package transport

import (
	"slices"
	"testing"
)

// Neighbouring slots in order are one run; what goes back, leaves one out or
// wraps around to slot 0 begins another.
func TestAppendRuns(t *testing.T) {
	for _, c := range []struct {
		slots []uint32
		want  []Run
	}{
		{[]uint32{7}, []Run{{7, 1}}},
		{[]uint32{7, 8, 9, 10}, []Run{{7, 4}}},
		{[]uint32{62, 63, 64, 65}, []Run{{62, 4}}},
		{[]uint32{7, 8, 10, 11, 3, 4, 5}, []Run{{7, 2}, {10, 2}, {3, 3}}},
		{[]uint32{9, 8, 7}, []Run{{9, 1}, {8, 1}, {7, 1}}},
		{[]uint32{7, 7}, []Run{{7, 1}, {7, 1}}},
		{[]uint32{1<<32 - 1, 0, 1}, []Run{{1<<32 - 1, 1}, {0, 2}}},
	} {
		segs := make([]Seg, len(c.slots))
		for i, x := range c.slots {
			segs[i].Index = x
		}
		if got := AppendRuns(nil, segs); !slices.Equal(got, c.want) {
			t.Errorf("slots %v in runs %v, want %v", c.slots, got, c.want)
		}
	}
}
