// Chaos breaks a cluster under load by a plan, and checks what its clients saw:
//
//	chaos --seed 7 --duration 1m
//	chaos --redundancy mirror:3 --target inproc
//	chaos --seed 7 --print-plan >my.plan
//	chaos --plan my.plan
//
// It is a program of its own, so that dmps holds nothing that injects faults.
// docs/chaos.md describes plans.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dmps/chaos/plan"
	"dmps/chaos/run"
	"dmps/internal/bytesize"
	"dmps/internal/exitcode"
	"dmps/raid"
)

// options say what is broken.
type options struct {
	seed       uint64
	duration   time.Duration
	redundancy string
	servers    int
	meta       int
	bear       int
	noHeals    bool
	without    []string
	load       string
	target     string
	bin        string
	size       bytesize.Size
	rate       int
	healLimit  time.Duration
	file       string
	printPlan  bool
	out        string
	log        *slog.Logger
	stdout     io.Writer
	stderr     io.Writer
}

// errUsage is a wrong command line.
var errUsage = errors.New("wrong command line")

func usageError(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, a...)...)
}

// errNotAsPromised: the report says what was not; it has been printed.
var errNotAsPromised = errors.New("not as promised")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(exitcode.Usage)
	case err != nil:
		if !errors.Is(err, errNotAsPromised) {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
		os.Exit(exitcode.Failure)
	}
}

func command(stdout, stderr io.Writer) *cobra.Command {
	o := &options{stdout: stdout, stderr: stderr}
	level := slog.LevelInfo
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break a cluster under load by a plan, and check what its clients saw",
		Long: `Starts a cluster on this machine, puts load on it, breaks it as a plan says and
checks that every page behaved as one register and that all redundancy came back by
itself. The plan comes from the seed, or from a file.

The exit code is 0 when everything was as promised. Otherwise the plan, the
history and the logs are kept in the folder that --out names, and the last line
says how to do it again. docs/chaos.md describes plans.`,
		Example: `  chaos --seed 7 --duration 1m
  chaos --redundancy mirror:3 --target inproc
  chaos --seed 7 --print-plan >my.plan
  chaos --plan my.plan`,
		Args:          func(_ *cobra.Command, args []string) error { return noArguments(args) },
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
			return o.chaos(cmd.Context(), cmd.Flags().Changed("seed"))
		},
	}
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError("%v", err) })
	o.flags(cmd)
	cmd.Flags().TextVar(&level, "log-level", level, "`level` of the log: debug, info, warn or error")
	return cmd
}

func noArguments(args []string) error {
	if len(args) > 0 {
		return usageError("%q: everything is said by flags", args[0])
	}
	return nil
}

func (c *options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Uint64Var(&c.seed, "seed", 0, "`seed` of the plan and of the load (default: another each time)")
	f.DurationVar(&c.duration, "duration", time.Minute, "how long the plan is; waits for heals come on top")
	f.StringVar(&c.redundancy, "redundancy", "rs:4+2", "`scheme` of the volume: mirror:N or rs:K+M")
	f.IntVar(&c.servers, "servers", 0, "`number` of memory servers (default: two more than the redundancy needs)")
	f.IntVar(&c.meta, "meta-nodes", 3, "`number` of metadata nodes: 1, 3 or 5")
	f.IntVar(&c.bear, "bear", 0, "`servers` that may be broken between two heals (default: as many as the redundancy bears; with more, requests may fail)")
	f.BoolVar(&c.noHeals, "no-heals", false, "do not wait for heals between bursts of faults")
	f.StringSliceVar(&c.without, "without", nil, "`kinds` of faults to leave out, such as corrupt,fill")
	f.StringVar(&c.load, "load", "mixed", "`what` is asked for: mixed, or single (one page at a time; with --servers K+M every row of it needs its redundancy)")
	f.StringVar(&c.target, "target", "processes", "`what` is broken: processes or inproc")
	f.StringVar(&c.bin, "bin", "", "the `program` that is broken, with --target processes (default: dmps beside this one)")
	f.Var(&c.size, "size", "of the volume (default: 16MiB, inproc 4MiB)")
	f.IntVar(&c.rate, "rate", 0, "`requests` a second that the load aims at (default: 1500, in plans of more than 5m 400)")
	f.DurationVar(&c.healLimit, "heal-limit", 0, "how long a heal may take (default 1m)")
	f.StringVar(&c.file, "plan", "", "carry out the plan in this `file`")
	f.BoolVar(&c.printPlan, "print-plan", false, "print the plan and do nothing")
	f.StringVar(&c.out, "out", "", "`folder` of the cluster and the report (default: a new one, removed when all was as promised)")
}

// plan is the plan that the flags describe, and the command that describes it
// again.
func (c *options) plan() (*plan.Plan, string, error) {
	again := "chaos --target " + c.target
	if c.bin != "" {
		again += " --bin " + c.bin
	}
	if c.size > 0 {
		again += " --size " + c.size.String()
	}
	if c.rate > 0 {
		again += fmt.Sprint(" --rate ", c.rate)
	}
	if c.file != "" {
		b, err := os.ReadFile(c.file)
		if err != nil {
			return nil, "", err
		}
		p, err := plan.Parse(string(b))
		if err != nil {
			return nil, "", usageError("%s: %v", c.file, err)
		}
		if err := p.Validate(); err != nil {
			return nil, "", usageError("%s: %v", c.file, err)
		}
		return p, again + " --plan " + c.file, nil
	}
	g, err := raid.ParseGeometry(c.redundancy)
	if err != nil {
		return nil, "", usageError("--redundancy: %v", err)
	}
	if c.servers == 0 {
		c.servers = g.Members() + 2
	}
	load, err := plan.ParseLoad(c.load)
	if err != nil {
		return nil, "", usageError("--load: %v", err)
	}
	o := plan.Options{Redundancy: g, Servers: c.servers, Meta: c.meta, Duration: c.duration, Bear: c.bear, NoHeals: c.noHeals, Load: load}
	again += fmt.Sprintf(" --seed %d --duration %v --redundancy %v --servers %d --meta-nodes %d", c.seed, c.duration, g, c.servers, c.meta)
	if c.bear != 0 {
		again += fmt.Sprint(" --bear ", c.bear)
	}
	if load != plan.Mixed {
		again += " --load " + load.String()
	}
	if c.noHeals {
		again += " --no-heals"
	}
	if len(c.without) > 0 {
		o.Weights = plan.DefaultWeights()
		for _, name := range c.without {
			found := false
			for _, k := range plan.Kinds() {
				if k.String() == name {
					delete(o.Weights, k)
					found = true
				}
			}
			if !found {
				return nil, "", usageError("--without %s: use any of %v", name, plan.Kinds())
			}
		}
		again += " --without " + strings.Join(c.without, ",")
	}
	if c.servers < g.Members() || c.meta < 1 {
		return nil, "", usageError("%v needs %d servers, and there must be a metadata node", g, g.Members())
	}
	p := plan.New(c.seed, o)
	if err := p.Validate(); err != nil {
		return nil, "", usageError("%v", err)
	}
	return p, again, nil
}

func (c *options) chaos(ctx context.Context, seeded bool) error {
	if c.target != "processes" && c.target != "inproc" {
		return usageError("--target %s: use processes or inproc", c.target)
	}
	if !seeded {
		c.seed = rand.Uint64N(1 << 32)
	}
	p, again, err := c.plan()
	if err != nil {
		return err
	}
	if c.printPlan {
		_, err := fmt.Fprint(c.stdout, p)
		return err
	}
	signal.Ignore(syscall.SIGPIPE) // what is started has to be ended too
	fmt.Fprintf(c.stderr, "chaos: %s\n", again)
	dir := c.out
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chaos-"); err != nil {
			return fmt.Errorf("making a temporary folder: %w", err)
		}
	}
	report, err := c.run(ctx, p, dir)
	if report != nil {
		fmt.Fprint(c.stdout, report)
		err = errors.Join(err, report.Err())
		if c.out != "" || err != nil {
			if serr := report.Save(dir); serr != nil {
				err = errors.Join(err, serr)
			}
		}
	}
	if err == nil {
		if c.out == "" {
			return os.RemoveAll(dir)
		}
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: what there is, is in %s", dir)
	}
	if report == nil || report.Err() == nil { // starting or ending the cluster
		fmt.Fprintf(c.stderr, "chaos: %v\n", err)
	}
	fmt.Fprintf(c.stderr, "plan, history, report and logs are in %s\nagain: %s\n", dir, again)
	return errNotAsPromised
}

func (c *options) run(ctx context.Context, p *plan.Plan, dir string) (_ *run.Report, err error) {
	var t run.Target
	if c.target == "inproc" {
		t, err = run.StartInProcess(ctx, run.InProcessConfig{Dir: filepath.Join(dir, "meta"), Plan: p, Size: c.size})
	} else {
		bin := c.bin
		if bin == "" {
			self, err := os.Executable()
			if err != nil {
				return nil, fmt.Errorf("finding dmps: %w", err)
			}
			bin = filepath.Join(filepath.Dir(self), "dmps")
		}
		t, err = run.StartProcesses(ctx, run.ProcessesConfig{Bin: bin, Dir: dir, Plan: p, Size: c.size})
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	rate := c.rate
	if rate == 0 && p.Duration > 5*time.Minute {
		rate = 400 // the history is kept in memory
	}
	return run.Run(ctx, t, p, run.Options{Rate: rate, HealLimit: c.healLimit, Log: c.log})
}
