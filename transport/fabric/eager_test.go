//go:build fabric && cgo

package fabric

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestEagerOf(t *testing.T) {
	type times = [len(eagerSizes)]time.Duration
	for name, c := range map[string]struct {
		link, oneSided times
		want           int
	}{
		"a card":                     {times{30, 31}, times{3, 4}, 0},
		"software":                   {times{15, 16}, times{25, 30}, 512},
		"the link for one header":    {times{15, 40}, times{25, 30}, 128},
		"as fast: spare the server":  {times{15, 16}, times{15, 16}, 0},
		"the link for many, somehow": {times{30, 16}, times{25, 30}, 512},
	} {
		if got := eagerOf(c.link, c.oneSided); got != c.want {
			t.Errorf("%s: %d, not %d", name, got, c.want)
		}
	}
}

// A link that cannot be measured leaves the default; an endpoint that fails, fails.
func TestMeasureEagerFails(t *testing.T) {
	ok := func(context.Context, int) error { return nil }
	broken := errors.New("broken")
	fail := func(context.Context, int) error { return broken }
	slow := func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }
	for name, link := range map[string]func(context.Context, int) error{"refused": fail, "slow": slow} {
		t0 := time.Now()
		n, err := measureEager(t.Context(), [2]func(context.Context, int) error{link, ok})
		if n != DefaultEager || err != nil || time.Since(t0) > 10*time.Second {
			t.Errorf("%s: %d, %v after %v", name, n, err, time.Since(t0))
		}
	}
	// What was measured before the time was over counts.
	tries := 0
	late := func(ctx context.Context, n int) error {
		if tries++; tries <= len(eagerSizes) {
			time.Sleep(200 * time.Microsecond)
			return nil
		}
		return slow(ctx, n)
	}
	if n, err := measureEager(t.Context(), [2]func(context.Context, int) error{late, ok}); n != 0 || err != nil {
		t.Errorf("a link that is slower: %d, %v", n, err)
	}
	if _, err := measureEager(t.Context(), [2]func(context.Context, int) error{ok, fail}); !errors.Is(err, broken) {
		t.Errorf("a broken endpoint: %v", err)
	}
}
