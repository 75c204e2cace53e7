package history

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// never is the return of what has not returned.
const never = time.Duration(math.MaxInt64)

// Options of a check.
type Options struct {
	// PerPage bounds the search for one page; 0: a minute. A page that takes
	// longer is undecided, which Check reports.
	PerPage time.Duration
}

// Result of a check.
type Result struct {
	Pages      int
	Ops        int // that counted
	Violations []*Violation
	Undecided  []uint32 // pages
}

// Err is nil when the history is linearizable.
func (r Result) Err() error {
	switch {
	case len(r.Violations) > 0:
		return fmt.Errorf("%d of %d pages are not linearizable; the first: %w", len(r.Violations), r.Pages, r.Violations[0])
	case len(r.Undecided) > 0:
		return fmt.Errorf("%d of %d pages could not be decided in time, page %d for one", len(r.Undecided), r.Pages, r.Undecided[0])
	}
	return nil
}

// Check judges a history, in whatever order its ops are. Violations are in the
// order of their pages. It ends early, with what it has, when ctx does.
func Check(ctx context.Context, ops []Op, o Options) (Result, error) {
	if o.PerPage == 0 {
		o.PerPage = time.Minute
	}
	pages := map[uint32][]Op{}
	for _, op := range ops {
		pages[op.Page] = append(pages[op.Page], op)
	}
	order := make([]uint32, 0, len(pages))
	for p := range pages {
		order = append(order, p)
	}
	slices.Sort(order)

	var (
		mu   sync.Mutex
		res  = Result{Pages: len(pages)}
		next int
		wg   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(order) || ctx.Err() != nil {
					mu.Unlock()
					return
				}
				p := order[next]
				next++
				mu.Unlock()
				ops := settle(pages[p])
				v, decided := checkPage(ops, o.PerPage)
				mu.Lock()
				res.Ops += len(ops)
				if v != nil {
					res.Violations = append(res.Violations, v)
				} else if !decided {
					res.Undecided = append(res.Undecided, p)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(res.Violations, func(a, b *Violation) int { return int(a.Page) - int(b.Page) })
	slices.Sort(res.Undecided)
	if err := ctx.Err(); err != nil {
		return res, fmt.Errorf("checking the history: %w", err)
	}
	return res, nil
}

// settle gives the ops of a page that decide anything, in order of their call.
// Reads that failed go. A change that was not answered stays only when its value
// was read, and has taken effect before the first such read returned: what nobody
// read may as well never have happened. Zeros have many sources, so a trim that was
// not answered stays open (Return is never), unless nobody read zeros after it began.
func settle(ops []Op) []Op {
	firstRead := map[Value]time.Duration{} // return of the first read that returned it
	lastZeros := time.Duration(-1)         // return of the last read of zeros
	for _, op := range ops {
		if op.Kind != OpRead || op.Outcome != OK {
			continue
		}
		if at, ok := firstRead[op.Value]; !ok || op.Return < at {
			firstRead[op.Value] = op.Return
		}
		if op.Value == Zeros {
			lastZeros = max(lastZeros, op.Return)
		}
	}
	var kept []Op
	for _, op := range ops {
		switch {
		case op.Outcome == OK:
		case op.Kind == OpRead:
			continue
		case op.Value == Zeros:
			if lastZeros < op.Call {
				continue
			}
			op.Return = never
		default:
			at, read := firstRead[op.Value]
			if !read {
				continue
			}
			op.Return = max(at, op.Call)
		}
		kept = append(kept, op)
	}
	slices.SortStableFunc(kept, func(a, b Op) int { return int(min(1, max(-1, a.Call-b.Call))) })
	return kept
}

// checkPage judges the settled ops of one page.
func checkPage(ops []Op, limit time.Duration) (v *Violation, decided bool) {
	if v := quick(ops); v != nil {
		return v, true
	}
	return walk(ops, limit)
}
