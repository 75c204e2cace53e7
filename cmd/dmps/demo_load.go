package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dmps/internal/bytesize"
	"dmps/internal/loadgen"
)

// What the demo asks for: blocks as large as the kernel's own page-outs, then
// single pages as an application's.
const (
	demoBlock     = 128 << 10
	pagesPerBlock = demoBlock / loadgen.PageSize
	demoDepth     = 16 // requests in flight
	rewriteShare  = 16 // one page of so many is overwritten
)

// phase is one pass of the demo over the device.
type phase struct {
	bytes   int64
	failed  int64
	elapsed time.Duration
	longest time.Duration // the longest that a request took
}

func (p phase) String() string {
	s := fmt.Sprintf("%s in %.1f s", human(p.bytes), p.elapsed.Seconds())
	if p.elapsed > 0 {
		s += fmt.Sprintf(", %s/s", bytesize.Size(float64(p.bytes)/p.elapsed.Seconds()).Human())
	}
	return s
}

// demoLoad writes and checks a device whose every page has known content.
type demoLoad struct {
	dev    loadgen.Device
	data   loadgen.Data
	blocks int64
	gen    []uint32 // generation of every page that was written last. Each is touched by one worker at a time
	order  []int    // pages to overwrite
	wrong  atomic.Int64
}

// demoWorker has the buffers of one request.
type demoWorker struct {
	block   []byte
	scratch []byte
}

// run does units 0..n-1 of a phase, demoDepth at a time. at, when not nil, is
// called after each unit with how many are done; its first error ends the
// phase, a failed request does not.
func (l *demoLoad) run(ctx context.Context, name string, n int64, show *progressView,
	do func(w *demoWorker, unit int64) (int, error), at func(done int64) error,
) (phase, error) {
	var (
		next, done, bytes, failed, longest atomic.Int64
		wg                                 sync.WaitGroup
	)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bar := show.start(name, n)
	begin := time.Now()
	for range demoDepth {
		wg.Go(func() {
			w := &demoWorker{block: make([]byte, demoBlock), scratch: make([]byte, loadgen.PageSize)}
			for ctx.Err() == nil {
				unit := next.Add(1) - 1
				if unit >= n {
					return
				}
				took := time.Now()
				size, err := do(w, unit)
				if err != nil {
					if failed.Add(1) == 1 {
						show.say(fmt.Sprintf("FAILED: %v", err))
					}
				}
				bytes.Add(int64(size))
				raise(&longest, int64(time.Since(took)))
				bar.add(1)
				if at != nil {
					if err := at(done.Add(1)); err != nil {
						cancel(err)
					}
				}
			}
		})
	}
	wg.Wait()
	p := phase{bytes: bytes.Load(), failed: failed.Load(), elapsed: time.Since(begin), longest: time.Duration(longest.Load())}
	bar.done(p.String())
	if ctx.Err() != nil {
		return p, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	return p, nil
}

// raise makes v at least n.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); n > old && !v.CompareAndSwap(old, n); old = v.Load() {
	}
}

func (l *demoLoad) fillBlock(w *demoWorker, block int64) (int, error) {
	for i := range int64(pagesPerBlock) {
		page := block*pagesPerBlock + i
		l.gen[page] = 1
		l.data.Fill(w.block[i*loadgen.PageSize:][:loadgen.PageSize], uint64(page), 1)
	}
	return l.dev.WriteAt(w.block, block*demoBlock)
}

func (l *demoLoad) rewritePage(w *demoWorker, unit int64) (int, error) {
	page := l.order[unit]
	l.gen[page]++
	b := w.block[:loadgen.PageSize]
	l.data.Fill(b, uint64(page), l.gen[page])
	return l.dev.WriteAt(b, int64(page)*loadgen.PageSize)
}

func (l *demoLoad) verifyBlock(w *demoWorker, block int64) (int, error) {
	n, err := l.dev.ReadAt(w.block, block*demoBlock)
	if err != nil {
		return n, err
	}
	for i := range int64(pagesPerBlock) {
		page := block*pagesPerBlock + i
		got := w.block[i*loadgen.PageSize:][:loadgen.PageSize]
		l.wrong.Add(int64(l.data.Wrong(got, uint64(page), l.gen[page], w.scratch)))
	}
	return n, nil
}
