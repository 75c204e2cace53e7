// Package jitter spreads what many processes would do at the same moment: those that
// lost one server do not all come back to it at once, nor stay in step.
package jitter

import (
	"math/rand/v2"
	"time"
)

// Around is a random time from d/2 to d*3/2, and d on average: the pause of a loop that
// tries something again. d is not negative.
func Around(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }
