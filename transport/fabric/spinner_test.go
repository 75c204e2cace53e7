//go:build fabric && cgo

package fabric

import (
	"testing"
	"time"
)

func TestSpinner(t *testing.T) {
	const whole = 160 * time.Microsecond
	var s spinner
	want := func(d time.Duration) {
		t.Helper()
		if got := s.time(whole); got != d {
			t.Fatalf("%v, not %v: %+v", got, d, s)
		}
	}
	want(whole)
	for range 100 {
		s.slept(time.Second) // idle
	}
	want(whole)
	s.slept(300 * time.Microsecond)
	want(whole / 2)
	s.found()
	want(whole)
	tried := 0
	for range 10 * spinRetry {
		s.slept(300 * time.Microsecond)
		switch s.time(whole) {
		case whole:
			tried++
		case 0:
			t.Fatal("no look at all")
		}
	}
	if tried != 10 {
		t.Errorf("the whole time was tried %d times, not 10", tried)
	}
	want(whole >> spinSteps)
	for range spinRetry - 1 {
		s.slept(300 * time.Microsecond)
	}
	want(whole)
	s.found() // the whole time was enough
	want(whole)
}
