package bed

import "time"

// budget bounds how long one device takes of a figure, so that a slow machine
// measures less and still ends. What is left out is noted, never filled in.
type budget struct {
	end  time.Time
	last time.Duration // that the last step took
	from time.Time     // start of the step that runs
}

func newBudget(d time.Duration) *budget {
	now := time.Now()
	return &budget{end: now.Add(d), from: now}
}

// allows reports whether a step that takes times as long as the last one would
// end in time. The first always does.
func (b *budget) allows(times float64) bool {
	now := time.Now()
	b.from = now
	return b.last == 0 || now.Add(time.Duration(times*float64(b.last))).Before(b.end)
}

// step ends a step.
func (b *budget) step() { b.last = max(time.Since(b.from), 1) }
