//go:build fabric && cgo

package fabric

import "time"

// spinner says how long to look for something before a sleep. A sleep costs two
// wake-ups of a core, several times what a transfer takes; but looking keeps others
// from their work, where both ends share a core most of all. So the time is halved
// when it was too short, and now and then tried whole: an end that always sleeps
// makes the other one wait, so that neither would ever find anything in time.
type spinner struct {
	steps int // the time is halved as often
	vain  int // waits in a row that it did not suffice for
}

const (
	spinSteps = 4
	spinRetry = 16 // of so many waits in vain one has the whole time
	// spinIdle: who waited longer had nothing to do, which says nothing.
	spinIdle = time.Millisecond
)

func (s *spinner) whole() bool { return s.vain%spinRetry == spinRetry-1 }

// time is how long to look, whole at most.
func (s *spinner) time(whole time.Duration) time.Duration {
	if s.whole() {
		return whole
	}
	return whole >> s.steps
}

// found notes that looking again was of use.
func (s *spinner) found() {
	s.steps = max(s.steps-1, 0)
	if s.whole() {
		s.steps = 0
	}
	s.vain = 0
}

// slept notes that something came after a wait of d, part of it asleep.
func (s *spinner) slept(d time.Duration) {
	if d < spinIdle {
		s.steps = min(s.steps+1, spinSteps)
		s.vain++
	}
}
