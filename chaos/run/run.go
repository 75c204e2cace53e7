package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"dmps/chaos/history"
	"dmps/chaos/plan"
)

// Options of a run. Zero values are the defaults.
type Options struct {
	Workers   int           // of the load; 0: 8
	Rate      int           // requests a second that the load aims at; 0: 1500
	HealLimit time.Duration // how long a heal may take; 0: 60 s
	StuckLess time.Duration // a request that takes longer is stuck; 0: 45 s
	Log       *slog.Logger  // what happens when; nil: nothing is logged
}

func (o Options) withDefaults() Options {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	if o.Rate == 0 {
		o.Rate = 1500
	}
	def(&o.HealLimit, time.Minute)
	def(&o.StuckLess, 45*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Run carries out a plan against a target that is healthy, and gives what was
// seen; Report.Err tells whether that is as promised. The error is one of the
// run itself: then nothing is known. The target is mended in any case.
func Run(ctx context.Context, t Target, p *plan.Plan, o Options) (*Report, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := &runner{
		o: o, t: t, p: p, rec: history.NewRecorder(), busy: map[plan.Role]chan struct{}{},
		report: &Report{Target: t.Name(), Plan: p, Started: time.Now()},
	}
	r.load = newLoad(t, r.rec, p, o)
	r.load.start()
	watched := r.watchMachine()
	err := r.steps(ctx)
	err = errors.Join(err, r.mendAll())
	if err == nil && !r.stuck {
		err = r.heal(ctx, "the end")
	}
	r.load.stop()
	if err == nil && !r.stuck {
		r.load.readAll(ctx)
	}
	r.report.Starved = watched()
	r.report.Crashed = t.Crashed()
	r.report.Elapsed = time.Since(r.report.Started)
	r.report.History = r.rec.Ops()
	r.load.into(r.report)
	r.report.stalls(r.load.slow)
	if err != nil {
		r.report.Broken = err.Error()
		return r.report, err
	}
	begin := time.Now()
	r.report.Check, err = history.Check(ctx, r.report.History, history.Options{})
	r.report.CheckTook = time.Since(begin)
	if err != nil {
		r.report.Broken = err.Error()
	}
	return r.report, err
}

// starvedAfter is how late a goroutine that wants to run may be on a machine that
// is fit for chaos: a client suspects servers after 150 ms of silence.
const starvedAfter = 75 * time.Millisecond

// watchMachine notes when this process does not get to run, until the function
// that it gives is called: then the others do not either, and who was merely late is
// taken for dead. The plan's budget does not know of these.
func (r *runner) watchMachine() (stop func() []Starved) {
	const every = 10 * time.Millisecond
	var all []Starved
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for last := r.rec.Now(); ; {
			select {
			case <-end:
				return
			case <-t.C:
			}
			now := r.rec.Now()
			if late := now - last - every; late > starvedAfter {
				all = append(all, Starved{last, late})
			}
			last = now
		}
	}()
	return func() []Starved {
		close(end)
		<-ended
		return all
	}
}

type runner struct {
	o      Options
	t      Target
	p      *plan.Plan
	rec    *history.Recorder
	load   *load
	report *Report
	stuck  bool // a heal took too long: what follows would tell nothing new

	mending sync.WaitGroup              // one a fault that is not over
	busy    map[plan.Role]chan struct{} // closed when the last fault of a process is over
	mu      struct {
		sync.Mutex
		errs []error // of the run itself
	}
}

// steps carries out the plan. Its time stands still during heals.
func (r *runner) steps(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // faults that are not over are mended at once
	start := r.rec.Now()
	until := func(at time.Duration) error {
		return sleep(ctx, start+at-r.rec.Now())
	}
	for _, s := range r.p.Steps {
		if err := until(s.At); err != nil {
			return err
		}
		if err := r.failed(); err != nil {
			return err
		}
		if s.Kind == plan.Heal {
			begin := r.rec.Now()
			r.mending.Wait()
			if err := r.heal(ctx, s.String()); err != nil {
				return err
			}
			if r.stuck {
				return nil
			}
			start += r.rec.Now() - begin
			continue
		}
		r.step(ctx, s)
	}
	if err := until(r.p.Duration); err != nil {
		return err
	}
	r.mending.Wait()
	return r.failed()
}

// step begins a fault, and has it ended in time.
func (r *runner) step(ctx context.Context, s plan.Step) {
	if before := r.busy[s.On]; before != nil {
		<-before // it should be over, and may be late
	}
	if r.failed() != nil {
		return
	}
	f := &FaultReport{Step: s.String(), Began: r.rec.Now()}
	r.report.Faults = append(r.report.Faults, f)
	if s.Kind == plan.Takeover {
		r.load.replaced.Store(int64(f.Began))
	}
	mend, err := r.t.Break(ctx, s.Fault)
	switch {
	case errors.Is(err, ErrSkipped):
		f.Skipped = strings.TrimPrefix(err.Error(), ErrSkipped.Error()+": ")
		r.o.Log.Info(s.Fault.String(), "skipped", f.Skipped)
		return
	case err != nil:
		r.fail(fmt.Errorf("%v: %w", s, err))
		return
	}
	r.o.Log.Info(s.Fault.String())
	if mend == nil {
		f.Ended = r.rec.Now()
		return
	}
	over := make(chan struct{})
	if s.On != "" {
		r.busy[s.On] = over
	}
	r.mending.Go(func() {
		defer close(over)
		_ = sleep(ctx, s.For) // ended early: the run is
		// Mended whatever became of the run.
		mctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeoverLimit)
		defer cancel()
		if err := mend(mctx); err != nil {
			r.fail(fmt.Errorf("end of %v: %w", s, err))
		}
		f.Ended = r.rec.Now()
		r.o.Log.Info("over: " + s.Fault.String())
	})
}

// mendAll waits for what is still broken.
func (r *runner) mendAll() error {
	r.mending.Wait()
	return r.failed()
}

func (r *runner) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.errs = append(r.mu.errs, err)
}

func (r *runner) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.mu.errs...)
}

// heal waits until nothing is missing, twice in a row: a report that was on its
// way may be older than the last fault.
func (r *runner) heal(ctx context.Context, what string) error {
	begin := r.rec.Now()
	h := HealReport{Step: what, Began: begin}
	good := 0
	for {
		missing := r.t.Health(ctx)
		if missing == "" {
			good++
		} else {
			good, h.Missing = 0, missing
		}
		h.Took = r.rec.Now() - begin
		if good == 3 {
			h.Missing = ""
			r.o.Log.Info("healed", "after", h.Took.Round(time.Millisecond))
			r.report.Heals = append(r.report.Heals, h)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if good == 0 && h.Took > r.o.HealLimit {
			r.o.Log.Error("not healed", "missing", h.Missing)
			r.report.Heals = append(r.report.Heals, h)
			r.stuck = true
			return nil // the report says so; the history is worth checking all the more
		}
		wait := 100 * time.Millisecond
		if good > 0 {
			wait = reportEvery
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// reportEvery is longer than a client or server takes to tell meta of a change
// for the worse, and as long as a beat.
const reportEvery = 400 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stalls finds the longest request of each fault's time, and a little after.
func (r *Report) stalls(slow []slowOp) {
	const after = 500 * time.Millisecond
	for _, f := range r.Faults {
		if f.Skipped != "" {
			continue
		}
		for _, s := range slow {
			if s.end >= f.Began && s.begin <= f.Ended+after {
				f.LongestStall = max(f.LongestStall, s.end-s.begin)
			}
		}
	}
	slices.SortFunc(slow, func(a, b slowOp) int { return int((b.end - b.begin) - (a.end - a.begin)) })
	if len(slow) > 0 {
		r.LongestStall = slow[0].end - slow[0].begin
	}
}
