package client

import "math/bits"

// latency is a histogram of times in nanoseconds: four buckets a power of two,
// 19 % wide each. It forgets by halving, so that its quantiles follow the load.
type latency struct {
	counts [4 * 40]uint32
	n      uint32
	most   int64 // largest ever
	total  int64 // samples ever
	sum    int64 // nanoseconds ever
}

// forgetAfter is how many samples a histogram holds before it halves them.
const forgetAfter = 1 << 14

func bucketOf(ns int64) int {
	if ns < 8 {
		return 0
	}
	e := bits.Len64(uint64(ns)) - 1
	return min(4*e+int(ns>>(e-2)&3), 4*40-1)
}

// bucketEnd is the upper bound of a bucket, in nanoseconds.
func bucketEnd(i int) int64 {
	e, q := i/4, i%4
	return int64(1)<<e + int64(q+1)<<e/4
}

func (l *latency) add(ns int64) {
	l.most = max(l.most, ns)
	l.total++
	l.sum += ns
	l.counts[bucketOf(ns)]++
	if l.n++; l.n < forgetAfter {
		return
	}
	l.n = 0
	for i := range l.counts {
		l.counts[i] /= 2
		l.n += l.counts[i]
	}
}

// quantile is an upper bound of the q-quantile of the recent times, 0 when
// there are none.
func (l *latency) quantile(q float64) int64 {
	want := uint32(q * float64(l.n))
	seen := uint32(0)
	for i, c := range l.counts {
		if seen += c; c > 0 && seen > want {
			return bucketEnd(i)
		}
	}
	return 0
}
