package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// asking asks all that a client answers at its admin address, again and again.
type asking struct {
	stop func()
	over chan struct{}

	answers int
	longest time.Duration
	err     error // the first
}

// askAll begins to ask the client.
func (c *cluster) askAll(ctx context.Context) *asking {
	ctx, stop := context.WithCancel(ctx)
	a := &asking{stop: stop, over: make(chan struct{})}
	go func() {
		defer close(a.over)
		for ctx.Err() == nil {
			for _, path := range []string{"/status", "/metrics", "/latency", "/healthz"} {
				began := time.Now()
				_, err := fetch(ctx, admin+path)
				if ctx.Err() != nil {
					return
				}
				a.answers++
				a.longest = max(a.longest, time.Since(began))
				if a.err == nil {
					a.err = err
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return a
}

// end stops asking, and is an error if a question was not answered.
func (a *asking) end() error {
	a.stop()
	<-a.over
	fmt.Printf("the client was asked %d times; the longest answer took %.1f s\n", a.answers, a.longest.Seconds())
	if a.answers == 0 {
		return errors.New("the client was never asked")
	}
	return a.err
}
