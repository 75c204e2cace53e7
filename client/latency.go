package client

import "math/bits"

// latency is a histogram of times in nanoseconds: four buckets a power of two,
// 19 % wide each. It forgets by halving, so that its quantiles follow the load.
type latency struct {
	counts [buckets]uint32
	n      uint32
	ever   Buckets // forgets nothing: windows are differences of it
	most   int64   // largest ever
	total  int64   // samples ever
	sum    int64   // nanoseconds ever
}

// forgetAfter is how many samples a histogram holds before it halves them.
const forgetAfter = 1 << 14

const buckets = 4 * 40

// Buckets is how many times fell into each bucket of a histogram, ever.
type Buckets [buckets]uint64

// BucketBounds are the upper bounds of Buckets, in nanoseconds.
func BucketBounds() []int64 {
	b := make([]int64, buckets)
	for i := range b {
		b[i] = bucketEnd(i)
	}
	return b
}

// since counts what came after an earlier state of the same histogram.
func (b *Buckets) since(before *Buckets) (n uint64) {
	for i := range b {
		n += b[i] - before[i]
	}
	return n
}

// Quantile is the q-quantile of what came after an earlier state of the same
// histogram, in nanoseconds; 0 when nothing did. Inside of a bucket times count
// as evenly spread.
func (b *Buckets) Quantile(before *Buckets, q float64) float64 {
	want := q * float64(b.since(before))
	seen := 0.0
	for i := range b {
		n := float64(b[i] - before[i])
		if n > 0 && seen+n >= want {
			low := 0.0
			if i > 0 {
				low = float64(bucketEnd(i - 1))
			}
			return low + (float64(bucketEnd(i))-low)*(want-seen)/n
		}
		seen += n
	}
	return 0
}

func bucketOf(ns int64) int {
	if ns < 8 {
		return 0
	}
	e := bits.Len64(uint64(ns)) - 1
	return min(4*e+int(ns>>(e-2)&3), buckets-1)
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
	i := bucketOf(ns)
	l.counts[i]++
	l.ever[i]++
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
