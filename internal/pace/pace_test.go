package pace

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPaceHonoursItsRate: several takers together get the rate, whatever the
// sizes of their pieces, within a burst.
func TestPaceHonoursItsRate(t *testing.T) {
	for _, rate := range []float64{64 << 10, 5 << 20, 300 << 20} {
		synctest.Test(t, func(t *testing.T) {
			var p Pace
			p.Set(rate)
			const span = 10 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), span)
			defer cancel()
			var mu sync.Mutex
			var moved int64
			var wg sync.WaitGroup
			for i := range 4 {
				piece := int64(rate/40) * int64(i+1)
				wg.Go(func() {
					for {
						n, err := p.Take(ctx, piece)
						if err != nil {
							return
						}
						mu.Lock()
						moved += n
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			want := rate * span.Seconds()
			if got := float64(moved); got > want*1.03 || got < want*0.97 {
				t.Errorf("%.0f bytes in %v at %.0f a second: %.3f of what is due", got, span, rate, got/want)
			}
		})
	}
}

// TestPaceChanges: who waits hears of a new rate at once, and what was taken
// and not moved is given back.
func TestPaceChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		p.Set(1000)
		if n, err := p.Take(t.Context(), 60_000); n != 60_000 || err != nil { // a minute
			t.Fatal(n, err)
		}
		start := time.Now()
		done := make(chan time.Duration)
		go func() {
			if _, err := p.Take(t.Context(), 1000); err != nil {
				t.Error(err)
			}
			done <- time.Since(start)
		}()
		time.Sleep(time.Second)
		p.Set(60_000)
		// 59,000 bytes less the burst are owed: about a second at the new rate.
		if took := <-done; took < 1900*time.Millisecond || took > 2*time.Second {
			t.Errorf("waited for %v", took)
		}
		p.Set(1)
		go func() {
			if n, err := p.Take(t.Context(), 1000); n != 0 || err != nil {
				t.Errorf("without a limit nothing is taken: %d, %v", n, err)
			}
			done <- time.Since(start)
		}()
		synctest.Wait()
		p.Set(0)
		<-done
		p.Set(1000)
		if _, err := p.Take(t.Context(), 5000); err != nil {
			t.Fatal(err)
		}
		p.Correct(-5000) // did not move
		start = time.Now()
		if _, err := p.Take(t.Context(), 10); err != nil || time.Since(start) > 10*time.Millisecond {
			t.Errorf("waited for %v although nothing is owed: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.Correct(100_000)
		if _, err := p.Take(ctx, 10); !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %v", err)
		}
	})
}

// Who comes with an ended context takes nothing: others do not wait for that.
func TestPaceOfTheEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		p.Set(1000)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := p.Take(ctx, 60_000); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %d, %v", n, err)
		}
		start := time.Now()
		if _, err := p.Take(t.Context(), 10); err != nil || time.Since(start) > 0 {
			t.Errorf("waited for %v although nothing is owed: %v", time.Since(start), err)
		}
	})
}
