package transport

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A list of chunks takes as long as it takes, as long as it goes on.
func TestOpenAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4000
		var under, most atomic.Int64
		own := errors.New("its own")
		begin := time.Now()
		errs := OpenAll(t.Context(), 2*time.Second, n, func(_ context.Context, i int) error {
			if u := under.Add(1); u > most.Load() {
				most.Store(u)
			}
			defer under.Add(-1)
			time.Sleep(100 * time.Millisecond)
			if i == 7 {
				return own
			}
			return nil
		})
		if d := time.Since(begin); d != n/OpensInFlight*100*time.Millisecond || most.Load() != OpensInFlight {
			t.Errorf("%v, %d at a time", d, most.Load())
		}
		for i, err := range errs {
			if i == 7 && err != own || i != 7 && err != nil {
				t.Fatalf("chunk %d: %v", i, err)
			}
		}
	})
}

// When none is opened for the limit, all that are left end.
func TestOpenAllStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		errs := OpenAll(t.Context(), 2*time.Second, 100, func(ctx context.Context, i int) error {
			if i < 50 {
				time.Sleep(time.Second)
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if d := time.Since(begin); d != 4*time.Second { // 50 take two rounds
			t.Errorf("ended after %v", d)
		}
		for i, err := range errs {
			if i < 50 && err != nil {
				t.Errorf("chunk %d: %v", i, err)
			}
			if i >= 50 && (!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "50 of 100")) {
				t.Errorf("chunk %d: %v", i, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range OpenAll(ctx, time.Second, 3, func(context.Context, int) error { t.Error("called"); return nil }) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("after the end: %v", err)
			}
		}
	})
}
