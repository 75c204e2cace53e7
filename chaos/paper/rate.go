package paper

import "time"

// Moved is how much went through in how long.
type Moved struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// MBps is the rate in 10^6 bytes a second, 0 when nothing was moved.
func (m Moved) MBps() float64 {
	if m.Seconds <= 0 {
		return 0
	}
	return float64(m.Bytes) / 1e6 / m.Seconds
}

func moved(n int64, since time.Time) Moved {
	return Moved{Bytes: n, Seconds: time.Since(since).Seconds()}
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
