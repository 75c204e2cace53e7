package run

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dmps/chaos/history"
	"dmps/chaos/plan"
	"dmps/raid"
)

// liar is a target in memory that does one thing wrong.
type liar struct {
	mu     sync.Mutex
	now    map[int64][]byte // page -> content
	before map[int64][]byte // what it was
	n      int              // requests
	wrong  string
	breaks []plan.Fault
	down   bool // the client
}

var errAnswer = errors.New("EIO")
var errBroken = errors.New("connection lost")

func newLiar(wrong string) *liar {
	return &liar{now: map[int64][]byte{}, before: map[int64][]byte{}, wrong: wrong}
}

func (l *liar) Name() string { return "liar" }
func (l *liar) Pages() int   { return 64 }
func (l *liar) Close() error { return nil }
func (l *liar) Dial(context.Context) (Device, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, errBroken
	}
	return liarDevice{l}, nil
}

func (l *liar) Break(_ context.Context, f plan.Fault) (func(context.Context) error, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaks = append(l.breaks, f)
	switch {
	case f.Kind == plan.Clock:
		return nil, skipped("no clock")
	case l.wrong == "break":
		return nil, errors.New("it does not break")
	case f.On == plan.Client:
		l.down = true
	}
	return func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.down = false
		return nil
	}, nil
}

func (l *liar) Health(context.Context) string {
	if l.wrong == "heal" {
		return "everything"
	}
	return ""
}

func (l *liar) Crashed() []string {
	if l.wrong == "crash" {
		return []string{"server1"}
	}
	return nil
}

type liarDevice struct{ l *liar }

func (d liarDevice) Close() error          { return nil }
func (d liarDevice) Replaced() bool        { return false }
func (d liarDevice) Broken(err error) bool { return errors.Is(err, errBroken) }

// due reports whether this is one of the requests that go wrong.
func (d liarDevice) due(what string) bool { return d.l.wrong == what && d.l.n%20 == 0 }

func (d liarDevice) begin() (end func(), err error) {
	time.Sleep(50 * time.Microsecond) // so that requests overlap
	d.l.mu.Lock()
	d.l.n++
	if d.l.down {
		d.l.mu.Unlock()
		return nil, errBroken
	}
	return d.l.mu.Unlock, nil
}

func (d liarDevice) ReadAt(p []byte, off int64) (int, error) {
	end, err := d.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	if d.due("eio") {
		return 0, errAnswer
	}
	for i := 0; i < len(p); i += history.PageSize {
		page := p[i : i+history.PageSize]
		at := off + int64(i)
		clear(page)
		copy(page, d.l.now[at])
		switch {
		case d.due("stale"):
			clear(page)
			copy(page, d.l.before[at])
		case d.due("torn"):
			copy(page[100:], d.l.before[at])
		case d.due("neighbour"):
			copy(page, d.l.now[(at+history.PageSize)%(64*history.PageSize)])
		}
	}
	return len(p), nil
}

func (d liarDevice) WriteAt(p []byte, off int64) (int, error) {
	end, err := d.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	if d.due("lost") {
		return len(p), nil
	}
	for i := 0; i < len(p); i += history.PageSize {
		at := off + int64(i)
		d.l.before[at] = d.l.now[at]
		d.l.now[at] = slices.Clone(p[i : i+history.PageSize])
	}
	if d.l.n%97 == 0 {
		return 0, errBroken // done, and nobody told
	}
	return len(p), nil
}

func (d liarDevice) Trim(off, n int64) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	if d.due("untrimmed") {
		return nil
	}
	for i := int64(0); i < n; i += history.PageSize {
		delete(d.l.now, off+i)
	}
	return nil
}

// runVirtually is Run in time that passes only when nobody has anything to do:
// however busy the machine is, a plan has all the requests of its duration.
func runVirtually(t *testing.T, target Target, p *plan.Plan, o Options) (r *Report, err error) {
	synctest.Test(t, func(t *testing.T) { r, err = Run(t.Context(), target, p, o) })
	return r, err
}

// TestLiar: each way of doing wrong is found, told, and saved; and a target that
// does right passes.
func TestLiar(t *testing.T) {
	p := &plan.Plan{Seed: 3, Redundancy: raid.Geometry{K: 1, M: 1}, Servers: 3, Meta: 1, Duration: 600 * time.Millisecond, Bear: 1, Steps: []plan.Step{
		{At: 50 * time.Millisecond, Fault: plan.Fault{Kind: plan.Freeze, On: plan.Server(1), For: 100 * time.Millisecond}},
		{At: 60 * time.Millisecond, Fault: plan.Fault{Kind: plan.Clock, On: plan.Meta(1), By: time.Hour, For: 100 * time.Millisecond}},
		{At: 200 * time.Millisecond, Fault: plan.Fault{Kind: plan.Heal}},
		{At: 300 * time.Millisecond, Fault: plan.Fault{Kind: plan.Kill, On: plan.Client, For: 50 * time.Millisecond}},
	}}
	for wrong, want := range map[string]string{
		"":          "",
		"stale":     "not linearizable",
		"lost":      "not linearizable",
		"untrimmed": "not linearizable",
		"torn":      "what nobody wrote",
		"neighbour": "what nobody wrote",
		"eio":       "requests failed",
		"crash":     "roles ended by themselves",
		"heal":      "not healed",
		"break":     "it does not break",
	} {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			l := newLiar(wrong)
			r, err := runVirtually(t, l, p, Options{Rate: 2000, HealLimit: 100 * time.Millisecond})
			if wrong == "break" {
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(r.String(), "NOT as promised:\nthe run did not come to its end: ") {
					t.Fatalf("got %v, want %q:\n%v", err, want, r)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := r.Err()
			if (got == nil) != (want == "") || got != nil && !strings.Contains(got.Error(), want) {
				t.Fatalf("got %v, want %q", got, want)
			}
			if wrong != "" {
				dir := filepath.Join(t.TempDir(), "out")
				if err := r.Save(dir); err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(filepath.Join(dir, "report.txt"))
				if err != nil || !strings.Contains(string(text), want) {
					t.Errorf("%v: %s", err, text)
				}
				return
			}
			if r.Ops < 100 || r.Unknown == 0 || len(r.Faults) != 3 || r.Faults[1].Skipped != "no clock" || len(r.Heals) != 2 {
				t.Errorf("%v", r)
			}
			if len(l.breaks) != 3 || l.down {
				t.Errorf("%v; down %v", l.breaks, l.down)
			}
		})
	}
}

// couple is a target of two clients from a takeover on: every other connection is to
// the one that was replaced.
type couple struct {
	*liar
	dials int
	first map[int64][]byte // what everybody held at first
	then  map[int64][]byte // and when the second client came; nil before
}

func (c *couple) Break(context.Context, plan.Fault) (func(context.Context) error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.then = maps.Clone(c.now)
	return func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.then = nil
		return nil
	}, nil
}

func (c *couple) Dial(context.Context) (Device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dials++
	return &coupleDevice{liarDevice{c.liar}, c, c.then != nil && c.dials%2 == 0}, nil
}

type coupleDevice struct {
	liarDevice
	c   *couple
	new bool // connected to the second client
}

func (d *coupleDevice) Replaced() bool {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	return d.c.then != nil && !d.new
}

func (d *coupleDevice) Broken(err error) bool { return d.Replaced() || d.liarDevice.Broken(err) }

func (d *coupleDevice) ReadAt(p []byte, off int64) (int, error) {
	if !d.Replaced() {
		return d.liarDevice.ReadAt(p, off)
	}
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	from := d.c.then
	if d.c.wrong == "too old" {
		from = d.c.first
	}
	for i := 0; i < len(p); i += history.PageSize {
		clear(p[i : i+history.PageSize])
		copy(p[i:], from[off+int64(i)])
	}
	return len(p), nil
}

func (d *coupleDevice) WriteAt(p []byte, off int64) (int, error) {
	if !d.Replaced() {
		return d.liarDevice.WriteAt(p, off)
	}
	if d.c.wrong == "answers" {
		return len(p), nil
	}
	return 0, errAnswer
}

func (d *coupleDevice) Trim(off, n int64) error {
	if d.Replaced() {
		return errAnswer
	}
	return d.liarDevice.Trim(off, n)
}

// TestReplaced: a client that was replaced may read what there was when the other came,
// and nothing older; a write that it answers must be there for the other.
func TestReplaced(t *testing.T) {
	p := &plan.Plan{Seed: 3, Redundancy: raid.Geometry{K: 1, M: 1}, Servers: 3, Meta: 1, Duration: 600 * time.Millisecond, Bear: 1, Steps: []plan.Step{
		{At: 200 * time.Millisecond, Fault: plan.Fault{Kind: plan.Takeover, On: plan.Client, For: 300 * time.Millisecond}},
	}}
	for wrong, want := range map[string]string{"": "", "too old": "not linearizable", "answers": "not linearizable"} {
		t.Run(wrong, func(t *testing.T) {
			r, err := Run(t.Context(), &couple{liar: newLiar(wrong), first: map[int64][]byte{}}, p, Options{Rate: 8000})
			if err != nil {
				t.Fatal(err)
			}
			r.Starved = nil // what this one is asked for is the history
			if got := r.Err(); (got == nil) != (want == "") || got != nil && !strings.Contains(got.Error(), want) {
				t.Errorf("got %v, want %q", got, want)
			}
		})
	}
}

// TestSingleLoad: one page at a time, and every kind of request.
func TestSingleLoad(t *testing.T) {
	p := &plan.Plan{Seed: 3, Redundancy: raid.Geometry{K: 1, M: 1}, Servers: 3, Meta: 1, Duration: 300 * time.Millisecond, Bear: 1, Load: plan.Single}
	r, err := Run(t.Context(), newLiar(""), p, Options{Rate: 8000})
	if err != nil {
		t.Fatal(err)
	}
	count := map[history.Kind]int{}
	last := time.Duration(0)
	for _, op := range r.History {
		if op.Client != 1 {
			continue // the reads at the end
		}
		if op.Call < last {
			t.Fatalf("%v begins before the one before it has ended, at %v", op, last)
		}
		last = op.Return
		count[op.Kind]++
	}
	if r.Err() != nil || count[history.OpRead] == 0 || count[history.OpWrite] == 0 || count[history.OpTrim] == 0 {
		t.Errorf("%v: %v", r.Err(), count)
	}
}

// TestStarved: what a busy machine may have done is told apart, and only that.
func TestStarved(t *testing.T) {
	p := &plan.Plan{Redundancy: raid.Geometry{K: 1, M: 1}, Bear: 1}
	r := &Report{Plan: p, Failed: 1, Failures: []string{"EIO"}}
	if err := r.Err(); err == nil || errors.Is(err, ErrStarved) {
		t.Errorf("on an idle machine: %v", err)
	}
	r.Starved = []Starved{{time.Second, 300 * time.Millisecond}}
	if err := r.Err(); !errors.Is(err, ErrStarved) || !strings.Contains(err.Error(), "300ms") || !strings.Contains(r.String(), "nothing is shown") {
		t.Errorf("on a busy one: %v\n%v", err, r)
	}
	r.Crashed = []string{"server1"}
	if err := r.Err(); err == nil || errors.Is(err, ErrStarved) {
		t.Errorf("with a crash: %v", err)
	}
	if r = (&Report{Plan: p, Starved: r.Starved}); r.Err() != nil {
		t.Errorf("busy, and all was well: %v", r.Err())
	}
}

// TestLossIsAllowed: a plan beyond the redundancy may fail requests, and not more.
func TestLossIsAllowed(t *testing.T) {
	p := &plan.Plan{Seed: 3, Redundancy: raid.Geometry{K: 1, M: 1}, Servers: 3, Meta: 1, Duration: 300 * time.Millisecond, Bear: 2}
	r, err := runVirtually(t, newLiar("eio"), p, Options{Rate: 2000})
	if err != nil || r.Err() != nil || r.Failed == 0 {
		t.Errorf("%v, %v", err, r)
	}
	if r, err = runVirtually(t, newLiar("stale"), p, Options{Rate: 2000}); err != nil || r.Err() == nil {
		t.Errorf("%v, %v", err, r)
	}
}

// TestStuck: a request that nobody answers is told, and does not hang the run.
func TestStuck(t *testing.T) {
	p := &plan.Plan{Seed: 3, Redundancy: raid.Geometry{K: 1, M: 1}, Servers: 3, Meta: 1, Duration: 300 * time.Millisecond, Bear: 1}
	r, err := runVirtually(t, &stuck{liar: newLiar("")}, p, Options{StuckLess: 50 * time.Millisecond})
	if err != nil || r.Err() == nil || !strings.Contains(r.Err().Error(), "stuck") {
		t.Errorf("%v, %v", err, r)
	}
}

type stuck struct {
	*liar
	met atomic.Bool // the one that is not answered
}

type stuckDevice struct {
	liarDevice
	s    *stuck
	shut chan struct{}
}

func (s *stuck) Dial(context.Context) (Device, error) {
	return stuckDevice{liarDevice{s.liar}, s, make(chan struct{})}, nil
}

func (d stuckDevice) Close() error {
	select {
	case <-d.shut:
	default:
		close(d.shut)
	}
	return nil
}

func (d stuckDevice) ReadAt(p []byte, off int64) (int, error) {
	if !d.s.met.Swap(true) {
		<-d.shut
		return 0, errBroken
	}
	return d.liarDevice.ReadAt(p, off)
}
