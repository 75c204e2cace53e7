package transport

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// OpensInFlight is how many OpenChunk calls of a session are worth having under way
// at once: a medium carries at least so many beside each other, or has them wait for
// each other. They hide the way there and back, of which a session of thousands of
// chunks would otherwise have one for each.
const OpensInFlight = 32

// OpenAll opens n chunks: it calls open for each i below n, several at a time, and
// returns their errors, by i. limit is for each, and not for all: it counts from the
// last answer of any. When it is over, or ctx ends, the rest end with an error that
// says how many were open. open must return when its context ends.
func OpenAll(ctx context.Context, limit time.Duration, n int, open func(ctx context.Context, i int) error) []error {
	errs := make([]error, n)
	var answers, next atomic.Int64
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("%w: no chunk was opened for %v, %d of %d are open", context.DeadlineExceeded, limit, answers.Load(), n))
	})
	defer silence.Stop()
	var wg sync.WaitGroup
	for range min(n, OpensInFlight) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if errs[i] = context.Cause(inner); errs[i] != nil {
					continue
				}
				errs[i] = open(inner, i)
				if cause := context.Cause(inner); cause != nil && errs[i] != nil {
					errs[i] = cause
					continue
				}
				answers.Add(1)
				silence.Reset(limit)
			}
		})
	}
	wg.Wait()
	return errs
}
