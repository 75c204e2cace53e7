package ledger

import (
	"fmt"
	"strings"
	"time"

	"dmps/internal/loadgen"
)

// Stats is how long requests took. The zero value is empty.
type Stats struct {
	loadgen.Histogram
	MaxOp    string    // of the longest request
	MaxStart time.Time // of the longest request
}

func (s *Stats) add(op string, start time.Time, took time.Duration) {
	if took > s.Max() {
		s.MaxOp, s.MaxStart = op, start
	}
	s.Add(took)
}

// String gives the distribution in one line.
func (s *Stats) String() string {
	if s.Count() == 0 {
		return "no requests"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests", s.Count())
	for _, q := range []float64{0.5, 0.99, 0.999, 0.9999} {
		fmt.Fprintf(&b, ", p%g <= %v", q*100, s.Quantile(q))
	}
	fmt.Fprintf(&b, ", max %v (%s)", s.Max().Round(time.Microsecond), s.MaxOp)
	return b.String()
}
