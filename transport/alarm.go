package transport

import (
	"iter"
	"time"
)

// Alarm watches the deadlines of a Conn's requests. It is not stopped when
// requests complete: it rings once per deadline at most, and finds nothing then.
// Its user guards it by the lock that guards the requests.
type Alarm struct {
	timer *time.Timer
	at    time.Time // when it rings; zero: not set
}

// Init makes ring be called, on a goroutine of its own, when a deadline passes.
// It is to call Rang.
func (a *Alarm) Init(ring func()) {
	a.timer = time.AfterFunc(time.Hour, ring)
	a.timer.Stop()
}

// Set makes it ring at t at the latest; zero: it need not.
func (a *Alarm) Set(t time.Time) {
	if t.IsZero() || !a.at.IsZero() && !t.Before(a.at) {
		return
	}
	a.at = t
	a.timer.Reset(time.Until(t))
}

// Rang reports whether one of the requests in flight is late, and sets the alarm
// for the next one.
func (a *Alarm) Rang(inFlight iter.Seq[*Request]) (late bool) {
	now := time.Now()
	var next time.Time
	for r := range inFlight {
		switch {
		case r.Deadline.IsZero():
		case !r.Deadline.After(now):
			late = true
		case next.IsZero() || r.Deadline.Before(next):
			next = r.Deadline
		}
	}
	a.at = time.Time{}
	a.Set(next)
	return late
}

// Stop ends it. It may be ringing just now.
func (a *Alarm) Stop() { a.timer.Stop() }
