package figures

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
