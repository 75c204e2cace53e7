package server

import "testing"

func TestBatchesAtATime(t *testing.T) {
	for cores, want := range map[int]int{1: 2, 2: 2, 3: 3, 4: 4, 64: rebuildWorkers} {
		if n := batchesAtATime(cores); n != want {
			t.Errorf("%d cores: %d batches, want %d", cores, n, want)
		}
	}
}
