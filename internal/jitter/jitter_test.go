package jitter

import (
	"testing"
	"time"
)

func TestAround(t *testing.T) {
	const d = time.Second
	var sum, least, most time.Duration = 0, d, d
	const n = 10000
	for range n {
		got := Around(d)
		sum, least, most = sum+got, min(least, got), max(most, got)
	}
	if least < d/2 || least > d*6/10 || most > d*3/2 || most < d*14/10 {
		t.Errorf("from %v to %v", least, most)
	}
	if mean := sum / n; mean < d*95/100 || mean > d*105/100 {
		t.Errorf("%v on average", mean)
	}
	if Around(0) != 0 {
		t.Error("some time around none")
	}
}
