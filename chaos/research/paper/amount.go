package paper

import (
	"time"

	"dmps/chaos/figures"
)

func moved(n int64, since time.Time) figures.Moved {
	return figures.Moved{Bytes: n, Seconds: time.Since(since).Seconds()}
}

// Amount bounds a measurement: it ends after Bytes, or at the first request
// that ends after Time, whichever comes first. A slow device then moves less
// instead of taking longer.
type Amount struct {
	Bytes int64
	Time  time.Duration
}

func (a Amount) enough(n int64, since time.Time) bool {
	return n >= a.Bytes || a.Time > 0 && time.Since(since) >= a.Time
}
