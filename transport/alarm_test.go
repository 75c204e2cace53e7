package transport

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAlarm: it rings for the earliest deadline, again for the next, and not for
// what has none.
func TestAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var a Alarm
		var flight []*Request
		var rang []time.Duration
		begun := time.Now()
		a.Init(func() {
			mu.Lock()
			defer mu.Unlock()
			if a.Rang(slices.Values(flight)) {
				rang = append(rang, time.Since(begun))
				flight = slices.DeleteFunc(flight, func(r *Request) bool {
					return !r.Deadline.IsZero() && !r.Deadline.After(time.Now())
				})
			}
		})
		mu.Lock()
		for _, after := range []time.Duration{3, 1, 0, 2} {
			r := new(Request)
			if after > 0 {
				r.Deadline = begun.Add(after * time.Second)
			}
			flight = append(flight, r)
			a.Set(r.Deadline)
		}
		mu.Unlock()
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(rang, want) {
			t.Errorf("it rang late requests after %v, not %v", rang, want)
		}
		a.Stop()
	})
}

func TestOutcome(t *testing.T) {
	now := time.Now()
	late, early := &Request{Deadline: now}, &Request{Deadline: now.Add(time.Second)}
	for _, c := range []struct {
		r     *Request
		cause error
		want  error
	}{
		{late, ErrDeadline, ErrDeadline}, {early, ErrDeadline, ErrClosed}, {nil, ErrDeadline, ErrClosed}, {&Request{}, ErrDeadline, ErrClosed},
		{late, ErrStaleEpoch, ErrFenced}, {nil, Ended(ErrStaleEpoch), ErrFenced}, {late, errors.New("reset"), ErrClosed}, {nil, nil, ErrClosed},
	} {
		if got := Outcome(c.r, c.cause, now); got != c.want {
			t.Errorf("%v ends with %v, not %v", c.cause, got, c.want)
		}
	}
	why := errors.New("why")
	if err := Ended(why); !errors.Is(err, ErrClosed) || !errors.Is(err, why) || Ended(err) != err || Ended(nil) != ErrClosed {
		t.Errorf("%v", err)
	}
}
