package ledger

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// Stats is how long requests took, in powers of two of a microsecond. The zero
// value is empty.
type Stats struct {
	Requests int64
	Max      time.Duration
	MaxOp    string    // of the longest request
	MaxStart time.Time // of the longest request
	buckets  [40]int64 // buckets[i]: less than 2^i microseconds
}

func (s *Stats) add(op string, start time.Time, took time.Duration) {
	s.Requests++
	i := min(bits.Len64(uint64(max(0, took.Microseconds()))), len(s.buckets)-1)
	s.buckets[i]++
	if took > s.Max {
		s.Max, s.MaxOp, s.MaxStart = took, op, start
	}
}

// Quantile gives an upper bound of the time that a share q of the requests took
// at most, within a factor of two.
func (s *Stats) Quantile(q float64) time.Duration {
	var n int64
	for i, b := range s.buckets {
		n += b
		if float64(n) >= q*float64(s.Requests) {
			return min(s.Max, time.Duration(1<<i)*time.Microsecond)
		}
	}
	return s.Max
}

// String gives the distribution in one line.
func (s *Stats) String() string {
	if s.Requests == 0 {
		return "no requests"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests", s.Requests)
	for _, q := range []float64{0.5, 0.99, 0.999, 0.9999} {
		fmt.Fprintf(&b, ", p%g < %v", q*100, s.Quantile(q))
	}
	fmt.Fprintf(&b, ", max %v (%s)", s.Max.Round(time.Microsecond), s.MaxOp)
	return b.String()
}
