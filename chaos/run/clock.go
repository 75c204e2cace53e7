package run

import (
	"time"

	"dmps/chaos/plan"
)

// jumpClock is not there yet.
func jumpClock(pid int, by time.Duration) (back func() error, err error) {
	_ = plan.Clock
	return nil, skipped("not there yet")
}
