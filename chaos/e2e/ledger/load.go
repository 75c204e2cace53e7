package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Device is what is tested. Its methods are called from many goroutines.
type Device interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Trim(off int64, n uint32) error
}

// MaxRun is the longest request in blocks: 128 KiB.
const MaxRun = 32

// Load is a running mixture of reads, writes and trims of 1 to MaxRun blocks.
// Start it with Ledger.Start.
type Load struct {
	ledger *Ledger
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		result Result
	}
	completed atomic.Int64
}

// Failure is a request that was answered with an error.
type Failure struct {
	Op    string // read, write, trim
	First int    // block
	Count int
	At    time.Time
	Err   error
}

func (f Failure) Error() string {
	return fmt.Sprintf("%s of %d blocks from %d on: %v", f.Op, f.Count, f.First, f.Err)
}

func (f Failure) Unwrap() error { return f.Err }

// keep bounds how many violations and failures are remembered; all are counted.
const keep = 1000

// Start begins a load of workers goroutines, worker i on devices[i%len]. It ends
// by Stop, or when the context does.
func (l *Ledger) Start(ctx context.Context, workers int, devices ...Device) *Load {
	ctx, cancel := context.WithCancel(ctx)
	ld := &Load{ledger: l, cancel: cancel}
	for i := range workers {
		w := &worker{load: ld, dev: devices[i%len(devices)], rng: rand.New(rand.NewPCG(l.seed, uint64(i)))}
		ld.wg.Go(func() { w.run(ctx) })
	}
	return ld
}

// Completed is how many requests have been answered without an error so far.
func (ld *Load) Completed() int64 { return ld.completed.Load() }

// Stop ends the load, waits for the requests in flight, and gives the result.
func (ld *Load) Stop() Result {
	ld.cancel()
	ld.wg.Wait()
	ld.mu.Lock()
	defer ld.mu.Unlock()
	return ld.mu.result
}

// Result of a load or a check.
type Result struct {
	Stats      Stats
	Wrong      int       // requests that returned wrong data
	Failed     int       // requests that were answered with an error
	Violations []error   // of the first of the wrong ones: each a *Violation, or several joined
	Failures   []Failure // the first of the failed ones
}

// Err is nil when there was no wrong data and no error.
func (r Result) Err() error {
	var errs []error
	errs = append(errs, r.Violations[:min(5, len(r.Violations))]...)
	for _, f := range r.Failures[:min(5, len(r.Failures))] {
		errs = append(errs, f)
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%d requests with wrong data, %d failed requests, the first ones: %w", r.Wrong, r.Failed, errors.Join(errs...))
}

// worker is one goroutine of a load.
type worker struct {
	load   *Load
	dev    Device
	rng    *rand.Rand
	buf    [MaxRun * BlockSize]byte
	floors [MaxRun]version
}

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		first, n := w.rng.IntN(w.load.ledger.Blocks()), w.length()
		switch p := w.rng.IntN(100); {
		case p < 50:
			w.change(first, n, false)
		case p < 55:
			w.change(first, n, true)
		default:
			w.read(first, min(n, w.load.ledger.Blocks()-first))
		}
	}
}

// length is mostly a page, often a readahead, sometimes the whole run.
func (w *worker) length() int {
	switch p := w.rng.IntN(10); {
	case p < 6:
		return 1
	case p < 9:
		return 1 + w.rng.IntN(8)
	default:
		return MaxRun
	}
}

func (w *worker) change(first, n int, trim bool) {
	l := w.load.ledger
	c := l.claim(first, n, trim)
	if len(c.versions) == 0 {
		return
	}
	op, bytes := "write", len(c.versions)*BlockSize
	start := time.Now()
	var err error
	if trim {
		op = "trim"
		err = w.dev.Trim(int64(first)*BlockSize, uint32(bytes))
	} else {
		l.fill(c, w.buf[:bytes])
		start = time.Now()
		_, err = w.dev.WriteAt(w.buf[:bytes], int64(first)*BlockSize)
	}
	took := time.Since(start)
	l.done(c, err == nil)
	w.load.note(op, first, len(c.versions), start, took, err, nil)
}

func (w *worker) read(first, n int) {
	l := w.load.ledger
	floors, p := w.floors[:n], w.buf[:n*BlockSize]
	l.floors(first, floors)
	start := time.Now()
	_, err := w.dev.ReadAt(p, int64(first)*BlockSize)
	took := time.Since(start)
	var wrong error
	if err == nil {
		wrong = l.judge(first, floors, p)
	}
	w.load.note("read", first, n, start, took, err, wrong)
}

// note records the end of a request.
func (ld *Load) note(op string, first, n int, start time.Time, took time.Duration, err, wrong error) {
	if err == nil {
		ld.completed.Add(1)
	}
	ld.mu.Lock()
	defer ld.mu.Unlock()
	r := &ld.mu.result
	r.Stats.add(op, start, took)
	if err != nil {
		r.Failed++
		if len(r.Failures) < keep {
			r.Failures = append(r.Failures, Failure{Op: op, First: first, Count: n, At: start, Err: err})
		}
	}
	if wrong != nil {
		r.Wrong++
		if len(r.Violations) < keep {
			r.Violations = append(r.Violations, wrong)
		}
	}
}

// Check reads every block once, while nothing else changes them. Blocks that
// answer with an error are failures of one block each: the rest of
// their run is asked for again, one by one.
func (l *Ledger) Check(dev Device) Result {
	ld := &Load{ledger: l}
	w := &worker{load: ld, dev: dev}
	for first := 0; first < l.Blocks(); first += MaxRun {
		n := min(MaxRun, l.Blocks()-first)
		if _, err := dev.ReadAt(w.buf[:BlockSize*n], int64(first)*BlockSize); err == nil {
			w.read(first, n)
			continue
		}
		for i := range n {
			w.read(first+i, 1)
		}
	}
	return ld.mu.result
}

// Fill writes every block once, with writes of MaxRun blocks.
func (l *Ledger) Fill(dev Device) error {
	w := &worker{load: &Load{ledger: l}, dev: dev}
	for first := 0; first < l.Blocks(); first += MaxRun {
		c := l.claim(first, MaxRun, false)
		if want := min(MaxRun, l.Blocks()-first); len(c.versions) != want {
			return fmt.Errorf("fill: block %d is being written by somebody else", first+len(c.versions))
		}
		p := w.buf[:len(c.versions)*BlockSize]
		l.fill(c, p)
		_, err := dev.WriteAt(p, int64(first)*BlockSize)
		l.done(c, err == nil)
		if err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}
