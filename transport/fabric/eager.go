//go:build fabric && cgo

package fabric

import (
	"context"
	"time"
)

// eagerSizes are the sizes of requests, in bytes, at which the two ways to a server
// are compared: one header, and some. A request with a page is larger than all of
// them: it is one-sided, to spare the server's CPU, also where that takes longer.
var eagerSizes = [...]int{128, 512}

const (
	eagerTries  = 5 // round trips each way at each size
	eagerBudget = 5 * time.Millisecond
)

// eagerOf is the threshold that follows from the fastest round trips at eagerSizes:
// the largest at which the link was faster, 0 for none.
func eagerOf(link, oneSided [len(eagerSizes)]time.Duration) int {
	for i := len(eagerSizes) - 1; i >= 0; i-- {
		if link[i] < oneSided[i] {
			return eagerSizes[i]
		}
	}
	return 0
}

// measureEager compares the two ways by turns: way 0 is over the link, way 1
// one-sided. It takes about eagerBudget at most, and judges by what it has until
// then. DefaultEager: that is nothing, or the server does not know the question. An
// error is one of the one-sided way.
func measureEager(ctx context.Context, way [2]func(context.Context, int) error) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, eagerBudget)
	defer cancel()
	var fastest [2][len(eagerSizes)]time.Duration
	for try := range eagerTries {
		for i, n := range eagerSizes {
			for w, trip := range way {
				t0 := time.Now()
				err := trip(ctx, n)
				d := time.Since(t0)
				switch {
				case err != nil && w == 1:
					return 0, err
				case err != nil && try == 0:
					return DefaultEager, nil
				case err != nil:
					return eagerOf(fastest[0], fastest[1]), nil
				case try == 0 || d < fastest[w][i]:
					fastest[w][i] = d
				}
			}
		}
	}
	return eagerOf(fastest[0], fastest[1]), nil
}
