package client

import (
	"testing"

	"pgregory.net/rapid"
)

func TestLatencyQuantiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l latency
		v := rapid.Int64Range(8, 1<<38).Draw(t, "ns")
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		for range n {
			l.add(v)
		}
		for _, q := range []float64{0, 0.5, 0.99} {
			got := l.quantile(q)
			if got < v || got > v+v/4+1 {
				t.Fatalf("quantile %v of %d times %d is %d", q, n, v, got)
			}
		}
		if l.most != v {
			t.Fatalf("most %d, want %d", l.most, v)
		}
	})
}

func TestLatencyForgets(t *testing.T) {
	var l latency
	for range forgetAfter {
		l.add(1e9)
	}
	for range 40 * forgetAfter {
		l.add(1e3)
	}
	if q := l.quantile(0.99); q > 2e3 {
		t.Fatalf("p99 is %d long after the slow times", q)
	}
	if l.most != 1e9 {
		t.Fatal("the largest time was forgotten")
	}
}
