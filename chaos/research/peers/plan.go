package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Plan is what to run.
type Plan struct {
	Contenders []Contender
	Cells      []Cell
	Rounds     int
	Runtime    time.Duration // of one measurement
	Size       int64         // bytes of each device
	Front      string        // medium between fio and the contenders: unix or tcp
	Dmps       string        // path of the dmps binary, when a contender needs it
	Echo       []string      // argv of a process that calls Echo
	Floor      []string      // argv of a process that calls Floor with the arguments behind it
	Progress   io.Writer     // a line a measurement
}

// Sample is one measurement.
type Sample struct {
	Contender string             `json:"contender"`
	Cell      Cell               `json:"cell"`
	Round     int                `json:"round"`
	Ops       int64              `json:"ops"`
	IOPS      float64            `json:"iops"`
	Bytes     float64            `json:"bytes_per_second"`
	Latency   Latency            `json:"latency"`
	CPU       map[string]float64 `json:"cpu_us_per_op"` // by role; with what it still did afterwards
	Settled   bool               `json:"settled"`       // it became idle within settleLimit
	Foreign   float64            `json:"foreign_cpu"`   // share of the machine's CPU time that others used meanwhile, 0 to 1
	Err       string             `json:"error,omitempty"`
}

// fioRole is the account of the driver in Sample.CPU.
const fioRole = "fio"

// Report is what a plan measured.
type Report struct {
	Environment Environment `json:"environment"`
	Rounds      int         `json:"rounds"`
	RuntimeMS   int64       `json:"runtime_ms"`
	Size        int64       `json:"size_bytes"`
	Front       string      `json:"front"`
	Contenders  []Entry     `json:"contenders"`
	Cells       []Cell      `json:"-"`
	Samples     []Sample    `json:"samples"`
	RoundTrips  []RoundTrip `json:"round_trips"`
	Memory      []Memory    `json:"memory"`
	Bars        []Verdict   `json:"bars"`
}

// Entry names a contender of a report.
type Entry struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

// Run starts all contenders, fills them, measures, and stops them. A
// measurement that fails is a Sample with Err; an error that makes the rest
// pointless is returned together with what was measured until then.
func (p Plan) Run(ctx context.Context) (rep *Report, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	rep = &Report{
		Environment: ReadEnvironment(ctx), Rounds: p.Rounds, RuntimeMS: p.Runtime.Milliseconds(),
		Size: p.Size, Front: p.Front, Cells: p.Cells,
	}
	for _, c := range p.Contenders {
		rep.Contenders = append(rep.Contenders, Entry{Name: c.Name, About: c.About})
	}
	dir, shm, remove, err := scratch()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()

	var targets []*Target
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, t.Stop())
		}
	}()
	for _, c := range p.Contenders {
		t, err := p.start(ctx, c, dir, shm)
		if t != nil {
			targets = append(targets, t)
		}
		if err != nil {
			return rep, fmt.Errorf("start %s: %w", c.Name, err)
		}
	}
	for i, c := range p.Contenders {
		t0 := time.Now()
		if _, _, err := runFio(ctx, fillArgs(targets[i].URI, p.Size, i+1)); err != nil {
			return rep, fmt.Errorf("fill %s with random data: %w", c.Name, err)
		}
		p.logf("%-12s filled with %d MiB of random data in %.1f s", c.Name, p.Size>>20, time.Since(t0).Seconds())
	}
	for round := range p.Rounds {
		if err := p.roundTrips(ctx, rep, round); err != nil {
			return rep, err
		}
		for n, cell := range p.Cells {
			for i := range p.Contenders {
				// Another one is first each time, so that nobody always follows the same neighbour.
				i = (i + round + n) % len(p.Contenders)
				s := p.measure(ctx, p.Contenders[i].Name, targets[i], cell, round)
				if ctx.Err() != nil {
					return rep, ctx.Err()
				}
				rep.Samples = append(rep.Samples, s)
				p.logf("%s", s)
			}
		}
	}
	for i, c := range p.Contenders {
		m, err := targets[i].memory(c.Name)
		if err != nil {
			return rep, fmt.Errorf("%s: %w", c.Name, err)
		}
		rep.Memory = append(rep.Memory, m...)
	}
	rep.Environment.LoadEnd = loadAverage()
	rep.Bars = rep.judge(Bars())
	return rep, nil
}

func (p Plan) check() error {
	var errs []error
	if len(p.Contenders) == 0 || len(p.Cells) == 0 || p.Rounds < 1 || p.Runtime <= 0 {
		errs = append(errs, errors.New("nothing to measure: contenders, cells, rounds and runtime must be given"))
	}
	if p.Front != "unix" && p.Front != "tcp" {
		errs = append(errs, fmt.Errorf("front %q: use unix or tcp", p.Front))
	}
	const align = 1 << 20
	if p.Size < 16*align || p.Size%align != 0 {
		errs = append(errs, fmt.Errorf("size %d: use whole MiB, at least 16", p.Size))
	}
	var need int64
	for _, c := range p.Contenders {
		need += c.Memory(p.Size)
		for _, m := range c.Missing() {
			errs = append(errs, fmt.Errorf("%s needs %s: install it, or leave %s out with --only", c.Name, m, c.Name))
		}
	}
	if have, err := available(); err != nil {
		errs = append(errs, err)
	} else if need > have*9/10 {
		errs = append(errs, fmt.Errorf("the contenders would take about %d MiB and %d are available: use a smaller --size or fewer with --only", need>>20, have>>20))
	}
	return errors.Join(errs...)
}

func (p Plan) start(ctx context.Context, c Contender, dir, shm string) (*Target, error) {
	site := Site{Dir: filepath.Join(dir, c.Name), Shm: filepath.Join(shm, c.Name), Size: p.Size, Front: p.Front, Dmps: p.Dmps, Floor: p.Floor}
	for _, d := range []string{site.Dir, site.Shm} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	return c.start(ctx, site)
}

// measure runs one cell on one contender.
func (p Plan) measure(ctx context.Context, name string, t *Target, cell Cell, round int) Sample {
	s := Sample{Contender: name, Cell: cell, Round: round}
	fail := func(err error) Sample {
		s.Err = err.Error()
		return s
	}
	before, err := t.cpuOf()
	if err != nil {
		return fail(err)
	}
	busy, err := busyTicks()
	if err != nil {
		return fail(err)
	}
	start := time.Now()
	// fio hangs when a server stops answering: that is a result too.
	fctx, cancel := context.WithTimeout(ctx, p.Runtime+30*time.Second)
	defer cancel()
	res, fioCPU, err := runFio(fctx, fioArgs(t.URI, cell, p.Size, p.Runtime, round+1))
	if err != nil {
		return fail(err)
	}
	busyAfter, err := busyTicks()
	if err != nil {
		return fail(err)
	}
	wall := time.Since(start)
	during, err := t.cpuOf()
	if err != nil {
		return fail(err)
	}
	others := busyAfter - busy - fioCPU
	for role, d := range during {
		others -= d - before[role]
	}
	s.Foreign = max(0, float64(others)/float64(wall)/float64(runtime.NumCPU()))
	after, settled, err := t.settle(ctx)
	if err != nil {
		return fail(err)
	}
	s.Ops, s.IOPS, s.Bytes, s.Latency, s.Settled = res.Ops, res.IOPS, res.Bytes, res.Latency, settled
	perOp := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(res.Ops) }
	s.CPU = map[string]float64{fioRole: perOp(fioCPU)}
	for role, d := range after {
		s.CPU[role] = perOp(d - before[role])
	}
	return s
}

// String gives the line of progress.
func (s Sample) String() string {
	head := fmt.Sprintf("round %d  %-22s %-12s", s.Round+1, s.Cell, s.Contender)
	if s.Err != "" {
		return head + " FAILED: " + s.Err
	}
	return fmt.Sprintf("%s %8.0f /s %7.0f MB/s  p50 %7s  p99 %7s", head, s.IOPS, s.Bytes/1e6, micros(s.Latency.P50), micros(s.Latency.P99))
}

// roundTrips measures plain TCP, as often as the cells are measured: once a round.
func (p Plan) roundTrips(ctx context.Context, rep *Report, round int) error {
	for _, size := range []int{Small, Large} {
		for _, request := range []int{minRequest, size} {
			rt, err := MeasureRoundTrip(ctx, p.Echo, request, size, p.Runtime/2)
			if err != nil {
				return err
			}
			rt.Round = round
			rep.RoundTrips = append(rep.RoundTrips, rt)
			p.logf("round %d  plain TCP, %d bytes there, %d back: p50 %s", round+1, rt.Request, rt.Reply, micros(rt.P50))
		}
	}
	return nil
}

func (p Plan) logf(format string, args ...any) {
	fmt.Fprintf(p.Progress, format+"\n", args...)
}
