package state

// random is a sequence of numbers from a seed (SplitMix64, Steele, Lea and
// Flood 2014). It is written out here because every replica, whatever it was
// built with, must draw the same numbers.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below draws from 0..n-1. The bias is at most n/2^64.
func (r *random) below(n int) int { return int(r.next() % uint64(n)) }

// shuffle permutes s (Fisher and Yates).
func shuffle[T any](r *random, s []T) {
	for i := len(s) - 1; i > 0; i-- {
		j := r.below(i + 1)
		s[i], s[j] = s[j], s[i]
	}
}
