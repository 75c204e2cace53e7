package run

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dmps/chaos/history"
	"dmps/chaos/plan"
)

const (
	maxRun   = 32                    // pages of a request: 128 KiB
	hotPages = 48                    // that half of the requests begin at, so that they meet
	slowOps  = 20 * time.Millisecond // requests that took longer are remembered
	redial   = 20 * time.Millisecond
	keepBad  = 100
)

// load is the workers.
type load struct {
	t    Target
	rec  *history.Recorder
	seed uint64
	kind plan.Load
	o    Options

	cancel context.CancelFunc
	wg     sync.WaitGroup

	replaced atomic.Int64 // when the last takeover began, as a time of rec

	mu      sync.Mutex
	foreign []string
	failed  []string
	nFailed int
	stuck   []string
	ops     int
	unknown int
	bytes   int64
	slow    []slowOp
}

type slowOp struct{ begin, end time.Duration }

func newLoad(t Target, rec *history.Recorder, p *plan.Plan, o Options) *load {
	if p.Load == plan.Single {
		o.Workers = 1
	}
	return &load{t: t, rec: rec, seed: p.Seed, kind: p.Load, o: o}
}

func (l *load) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for i := range l.o.Workers {
		w := &worker{l: l, id: uint16(i + 1), r: rand.New(rand.NewPCG(l.seed, uint64(i+1)))}
		l.wg.Go(func() { w.run(ctx) })
	}
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// worker does one request at a time.
type worker struct {
	l      *load
	id     uint16
	r      *rand.Rand
	dev    Device
	writes uint64
	zeros  bool // a trim is a write of zeros
	buf    [maxRun * history.PageSize]byte
	ops    [maxRun]history.Op
}

func (w *worker) run(ctx context.Context) {
	defer w.hangUp()
	pause := time.Second * time.Duration(w.l.o.Workers) / time.Duration(w.l.o.Rate)
	for ctx.Err() == nil {
		if w.dev == nil {
			dev, err := w.l.t.Dial(ctx)
			if err != nil {
				_ = sleep(ctx, redial) // the client is down, or not there yet
				continue
			}
			w.dev = dev
		}
		first, n := w.place()
		switch p := w.r.IntN(100); {
		case p < 45:
			w.do(history.OpRead, first, n)
		case p < 92:
			w.do(history.OpWrite, first, n)
		default:
			// To a page, zeros that are written are the same as a trim.
			w.zeros = w.l.kind == plan.Single && p < 96
			w.do(history.OpTrim, first, n)
		}
		_ = sleep(ctx, time.Duration(w.r.Int64N(int64(2*pause)+1)))
	}
}

func (w *worker) hangUp() {
	if w.dev != nil {
		_ = w.dev.Close() // it may be broken
		w.dev = nil
	}
}

// place picks the pages of a request.
func (w *worker) place() (first, n int) {
	pages := w.l.t.Pages()
	first = w.r.IntN(pages)
	if w.r.IntN(2) == 0 {
		first = w.r.IntN(hotPages)
	}
	switch p := w.r.IntN(10); {
	case p < 6 || w.l.kind == plan.Single:
		n = 1
	case p < 9:
		n = 1 + w.r.IntN(8)
	default:
		n = maxRun
	}
	return first, min(n, pages-first)
}

// do carries out one request and records it, page by page.
func (w *worker) do(kind history.Kind, first, n int) {
	l := w.l
	ops, p := w.ops[:n], w.buf[:n*history.PageSize]
	for i := range ops {
		ops[i] = history.Op{Page: uint32(first + i), Client: w.id, Kind: kind}
		if kind == history.OpWrite {
			w.writes++
			ops[i].Value = history.NewValue(w.id, w.writes)
			history.Fill(p[i*history.PageSize:], l.seed, ops[i].Page, ops[i].Value)
		}
	}
	off := int64(first) * history.PageSize
	dev := w.dev
	call := l.rec.Now()
	watch := time.AfterFunc(l.o.StuckLess, func() {
		l.note(&l.stuck, fmt.Sprintf("%v of %d pages from %d on, begun at %v, was not answered within %v", kind, n, first, call, l.o.StuckLess))
		_ = dev.Close() // ends the request
	})
	var err error
	switch kind {
	case history.OpRead:
		_, err = dev.ReadAt(p, off)
	case history.OpWrite:
		_, err = dev.WriteAt(p, off)
	case history.OpTrim:
		if w.zeros {
			clear(p)
			_, err = dev.WriteAt(p, off)
			break
		}
		err = dev.Trim(off, int64(n)*history.PageSize)
	}
	ret := l.rec.Now()
	watch.Stop()
	slow := ret - call
	// A client that was replaced cannot know of it at once: what it reads may be as old as
	// the moment when the other came. What it writes must be there for everybody.
	if kind == history.OpRead && dev.Replaced() {
		call = min(call, time.Duration(l.replaced.Load()))
	}

	outcome := history.OK
	switch {
	case err != nil && dev.Broken(err):
		outcome = history.Unknown
		w.hangUp()
	case err != nil:
		outcome = history.Failed
	}
	for i := range ops {
		op := &ops[i]
		op.Call, op.Return, op.Outcome = call, ret, outcome
		if kind == history.OpRead && outcome == history.OK {
			v, rerr := history.Read(p[i*history.PageSize:][:history.PageSize], l.seed, op.Page)
			if rerr != nil {
				l.note(&l.foreign, fmt.Sprintf("at %v page %d: %v", ret, op.Page, rerr))
				op.Outcome = history.Failed // it says nothing more
			}
			op.Value = v
		}
	}
	l.rec.Add(ops...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops++
	if outcome == history.Unknown {
		l.unknown++
	} else {
		l.bytes += int64(len(p))
		if slow > slowOps { // one whose client died tells nothing
			l.slow = append(l.slow, slowOp{ret - slow, ret})
		}
	}
	if outcome == history.Failed {
		l.nFailed++
		if len(l.failed) < keepBad {
			l.failed = append(l.failed, fmt.Sprintf("at %v after %v: %v of %d pages from %d on: %v", ret.Round(time.Millisecond), slow.Round(time.Millisecond), kind, n, first, err))
		}
	}
}

func (l *load) note(list *[]string, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(*list) < keepBad {
		*list = append(*list, what)
	}
}

// readAll reads every page once, when nothing else is done.
func (l *load) readAll(ctx context.Context) {
	w := &worker{l: l, id: uint16(l.o.Workers + 1)}
	defer w.hangUp()
	for first := 0; first < l.t.Pages() && ctx.Err() == nil; {
		if w.dev == nil {
			dev, err := l.t.Dial(ctx)
			if err != nil {
				l.note(&l.failed, fmt.Sprintf("reading all at the end: %v", err))
				return
			}
			w.dev = dev
		}
		n := min(maxRun, l.t.Pages()-first)
		w.do(history.OpRead, first, n)
		first += n
	}
}

func (l *load) into(r *Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Ops, r.Unknown, r.Failed, r.Bytes = l.ops, l.unknown, l.nFailed, l.bytes
	r.Foreign, r.Failures, r.Stuck = l.foreign, l.failed, l.stuck
}
