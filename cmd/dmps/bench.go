package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"dmps/chaos/cluster"
	"dmps/internal/bytesize"
	"dmps/internal/loadgen"
	"dmps/internal/nbdclient"
)

// benchFlags say what is measured.
type benchFlags struct {
	devFlags
	blocks []string
	depths []int
	ops    []string
	span   bytesize.Size
	time   time.Duration
	yes    bool
	output choice
}

func (a *app) benchCommand() *cobra.Command {
	var b benchFlags
	cmd := &cobra.Command{
		Use:     "bench [URI]",
		Short:   "Measure rates and latencies over NBD",
		GroupID: groupTry,
		Long: `Puts load on an NBD server and prints rates and percentiles of latency. Without
a URI it starts a cluster on this machine, as 'dmps dev' does with the same
flags, and measures that. Any NBD server can be measured.

The device is overwritten, so that reads find data: for a URI say --overwrite.
'make bench' compares dmps with other NBD servers; this command measures one.`,
		Example: `  dmps bench
  dmps bench --redundancy none --servers 1 --layout linear --server-memory 1GiB --size 512MiB
  dmps bench --ops randread --block 4KiB --depth 1,8,32 --time 5s
  dmps bench nbd://127.0.0.1:10809/swap0 --overwrite --output json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if !b.yes {
					return usageError("the bench overwrites %s: say --overwrite if it may", args[0])
				}
				return a.benchURI(cmd.Context(), b, args[0])
			}
			return a.benchCluster(cmd.Context(), b)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	b.add(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&b.ops, "ops", []string{"randread", "randwrite", "seqread", "seqwrite"}, "`kinds` of load: randread, randwrite, seqread, seqwrite")
	f.StringSliceVar(&b.blocks, "block", []string{"4KiB", "128KiB"}, "`sizes` of requests")
	f.IntSliceVar(&b.depths, "depth", []int{1, 32}, "requests in flight, a `list`")
	f.DurationVar(&b.time, "time", 2*time.Second, "how long each measurement takes")
	f.Var(&b.span, "span", "bytes of the device that are used (default: all, at most 1GiB)")
	f.BoolVar(&b.yes, "overwrite", false, "the device at URI may be overwritten")
	completeChoice(cmd, "ops", []string{"randread", "randwrite", "seqread", "seqwrite"})
	noCompletion(cmd, "block", "depth", "time", "span")
	outputFlag(cmd, &b.output)
	return cmd
}

func (a *app) benchCluster(ctx context.Context, b benchFlags) error {
	if _, err := b.jobs(int64(b.shape.size)); err != nil {
		return err
	}
	return a.inFolder("", func(dir string) error {
		b.dir, b.nbd = dir, "unix:"+filepath.Join(dir, "nbd.sock")
		cfg, err := b.config(a)
		if err != nil {
			return err
		}
		cfg.Progress = a.progress("dmps bench")
		c, err := cluster.Start(ctx, cfg)
		if err != nil {
			return err
		}
		return errors.Join(a.benchURI(ctx, b, c.File().NBD), c.Stop())
	})
}

// benchRow is one measurement.
type benchRow struct {
	Op        string  `json:"op"`
	Block     int64   `json:"block_bytes"`
	Depth     int     `json:"depth"`
	Seconds   float64 `json:"seconds"`
	Requests  uint64  `json:"requests"`
	PerSecond float64 `json:"requests_per_second"`
	Bytes     float64 `json:"bytes_per_second"`
	MeanUS    float64 `json:"mean_us"`
	P50US     float64 `json:"p50_us"`
	P99US     float64 `json:"p99_us"`
	P999US    float64 `json:"p999_us"`
	MaxUS     float64 `json:"max_us"`
}

func (a *app) benchURI(ctx context.Context, b benchFlags, uri string) error {
	addr, err := nbdclient.ParseURI(uri)
	if err != nil {
		return usageError("%v", err)
	}
	dev, err := nbdclient.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer dev.Close()
	jobs, err := b.jobs(dev.Size())
	if err != nil {
		return err
	}
	if err := a.prefill(ctx, dev, jobs[0].job.Span); err != nil {
		return err
	}
	rows := make([]benchRow, 0, len(jobs))
	for _, j := range jobs {
		res, err := loadgen.Run(ctx, dev, j.job)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
		if err != nil {
			return err
		}
		if res.Requests == 0 {
			return fmt.Errorf("%v: no request was answered within %v", j.job, j.job.Time)
		}
		rows = append(rows, rowOf(j, res))
		fmt.Fprintf(a.err, "dmps bench: %d of %d done\n", len(rows), len(jobs))
	}
	if b.output.value == "json" {
		return printJSON(a.out, struct {
			NBD     string     `json:"nbd"`
			Build   build      `json:"build"`
			Results []benchRow `json:"results"`
		}{uri, buildInfo(), rows})
	}
	return benchTable(rows, paletteFor(a.out)).print(a.out)
}

type benchJob struct {
	op  string
	job loadgen.Job
}

const (
	defaultSpan = bytesize.GiB
	prefillSize = 128 << 10
)

// jobs is every combination that was asked for, on a device of size bytes.
func (b *benchFlags) jobs(size int64) ([]benchJob, error) {
	span := int64(b.span)
	if span == 0 {
		span = min(size, int64(defaultSpan))
	}
	if span > size {
		return nil, usageError("--span %v is more than the device's %v", b.span, bytesize.Size(size))
	}
	var jobs []benchJob
	for _, text := range b.blocks {
		block, err := bytesize.Parse(text)
		if err != nil {
			return nil, usageError("--block: %v", err)
		}
		if block <= 0 || block > nbdclient.MaxRequest || block%512 != 0 {
			return nil, usageError("--block %v: must be a multiple of 512 bytes and at most %v", block, bytesize.Size(nbdclient.MaxRequest))
		}
		for _, op := range b.ops {
			var j loadgen.Job
			switch op {
			case "randread":
				j.Random = true
			case "randwrite":
				j.Random, j.Write = true, true
			case "seqread":
			case "seqwrite":
				j.Write = true
			default:
				return nil, usageError("--ops %s: use randread, randwrite, seqread, seqwrite", op)
			}
			for _, depth := range b.depths {
				if depth < 1 || depth > 4096 {
					return nil, usageError("--depth %d: must be 1 to 4096", depth)
				}
				j.Block, j.Depth, j.Time = int64(block), depth, b.time
				j.Span = span / prefillSize * prefillSize / j.Block * j.Block
				j.Seed = uint64(len(jobs)) + 1
				if j.Span == 0 {
					return nil, usageError("a device of %v is too small for blocks of %v", bytesize.Size(span), block)
				}
				jobs = append(jobs, benchJob{op, j})
			}
		}
	}
	if len(jobs) == 0 {
		return nil, usageError("nothing to measure: give --ops, --block and --depth at least one value each")
	}
	return jobs, nil
}

// prefill writes the span once, so that reads find data.
func (a *app) prefill(ctx context.Context, dev *nbdclient.Conn, span int64) error {
	fmt.Fprintf(a.err, "dmps bench: filling %s\n", human(span))
	l := &demoLoad{dev: dev, data: loadgen.Data{Seed: 1}, blocks: span / demoBlock, gen: make([]uint32, span/loadgen.PageSize)}
	show := &progressView{w: a.err}
	p, err := l.run(ctx, "fill", l.blocks, show, l.fillBlock, nil)
	if err == nil && p.failed > 0 {
		err = fmt.Errorf("%d writes failed", p.failed)
	}
	return err
}

func rowOf(j benchJob, r *loadgen.Result) benchRow {
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return benchRow{
		Op: j.op, Block: j.job.Block, Depth: j.job.Depth,
		Seconds: r.Elapsed.Seconds(), Requests: r.Requests, PerSecond: r.PerSecond(), Bytes: r.BytesPerSecond(),
		MeanUS: us(r.Latency.Mean()), P50US: us(r.Latency.Quantile(0.5)), P99US: us(r.Latency.Quantile(0.99)),
		P999US: us(r.Latency.Quantile(0.999)), MaxUS: us(r.Latency.Max()),
	}
}

func benchTable(rows []benchRow, p palette) *table {
	var t table
	t.row(p.head("LOAD", "BLOCK", "DEPTH", "REQ/S", "MB/S", "P50 US", "P99 US", "P99.9 US", "MAX US")...)
	f := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	for _, r := range rows {
		t.row(r.Op, human(r.Block), strconv.Itoa(r.Depth), f(r.PerSecond, 0), f(r.Bytes/1e6, 1),
			f(r.P50US, 0), f(r.P99US, 0), f(r.P999US, 0), f(r.MaxUS, 0))
	}
	return &t
}
