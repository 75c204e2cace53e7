package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/chaos/plan"
	"dmps/chaos/run"
	"dmps/internal/bytesize"
	"dmps/internal/exitcode"
	"dmps/raid"
)

// chaosFlags say what is broken.
type chaosFlags struct {
	seed       uint64
	duration   time.Duration
	redundancy geometryFlag
	servers    int
	meta       int
	bear       int
	noHeals    bool
	without    []string
	load       choice
	target     choice
	size       bytesize.Size
	rate       int
	healLimit  time.Duration
	file       string
	printPlan  bool
	out        string
}

// chaosCommand is hidden: it is for those who work on dmps.
func (a *app) chaosCommand() *cobra.Command {
	c := chaosFlags{redundancy: geometryFlag{K: 4, M: 2}, target: newChoice("processes", "processes", "inproc"), load: newChoice("mixed", "mixed", "single")}
	cmd := &cobra.Command{
		Use:    "chaos",
		Short:  "Break a cluster under load by a plan, and check what its clients saw",
		Hidden: true,
		Long: `Starts a cluster on this machine, puts load on it, breaks it as a plan says and
checks that every page behaved as one register and that all redundancy came back by
itself. The plan comes from the seed, or from a file.

The exit code is 0 when everything was as promised. Otherwise the plan, the
history and the logs are kept in the folder that --out names, and the last line
says how to do it again. docs/chaos.md describes plans.`,
		Example: `  dmps chaos --seed 7 --duration 1m
  dmps chaos --redundancy mirror:3 --target inproc
  dmps chaos --seed 7 --print-plan >my.plan
  dmps chaos --plan my.plan`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.chaos(cmd.Context(), c, cmd.Flags().Changed("seed"))
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&c.seed, "seed", 0, "`seed` of the plan and of the load (default: another each time)")
	f.DurationVar(&c.duration, "duration", time.Minute, "how long the plan is; waits for heals come on top")
	f.Var(&c.redundancy, "redundancy", "of the volume: mirror:N or rs:K+M")
	f.IntVar(&c.servers, "servers", 0, "`number` of memory servers (default: two more than the redundancy needs)")
	f.IntVar(&c.meta, "meta-nodes", 3, "`number` of metadata nodes: 1, 3 or 5")
	f.IntVar(&c.bear, "bear", 0, "`servers` that may be broken between two heals (default: as many as the redundancy bears; with more, requests may fail)")
	f.BoolVar(&c.noHeals, "no-heals", false, "do not wait for heals between bursts of faults")
	f.StringSliceVar(&c.without, "without", nil, "`kinds` of faults to leave out, such as corrupt,fill")
	f.Var(&c.load, "load", "`what` is asked for: mixed, or single (one page at a time; with --servers K+M every row of it needs its redundancy)")
	f.Var(&c.target, "target", "`what` is broken: processes or inproc")
	f.Var(&c.size, "size", "of the volume (default: 16MiB, inproc 4MiB)")
	f.IntVar(&c.rate, "rate", 0, "`requests` a second that the load aims at (default: 1500, in plans of more than 5m 400)")
	f.DurationVar(&c.healLimit, "heal-limit", 0, "how long a heal may take (default 1m)")
	f.StringVar(&c.file, "plan", "", "carry out the plan in this `file`")
	f.BoolVar(&c.printPlan, "print-plan", false, "print the plan and do nothing")
	f.StringVar(&c.out, "out", "", "`folder` of the cluster and the report (default: a new one, removed when all was as promised)")
	completeChoice(cmd, "target", c.target.allowed)
	completeChoice(cmd, "load", c.load.allowed)
	noCompletion(cmd, "seed", "duration", "redundancy", "servers", "meta-nodes", "bear", "without", "size", "rate", "heal-limit")
	return cmd
}

// plan is the plan that the flags describe, and the command that describes it
// again.
func (c *chaosFlags) plan() (*plan.Plan, string, error) {
	again := "dmps chaos --target " + c.target.value
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
	g := raid.Geometry(c.redundancy)
	if c.servers == 0 {
		c.servers = g.Members() + 2
	}
	load, err := plan.ParseLoad(c.load.value)
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

func (a *app) chaos(ctx context.Context, c chaosFlags, seeded bool) error {
	if !seeded {
		c.seed = rand.Uint64N(1 << 32)
	}
	p, again, err := c.plan()
	if err != nil {
		return err
	}
	if c.printPlan {
		_, err := fmt.Fprint(a.out, p)
		return err
	}
	outlivePipes() // what is started has to be ended too
	fmt.Fprintf(a.err, "dmps chaos: %s\n", again)
	dir := c.out
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chaos-"); err != nil {
			return fmt.Errorf("making a temporary folder: %w", err)
		}
	}
	report, err := a.chaosRun(ctx, c, p, dir)
	if report != nil {
		fmt.Fprint(a.out, report)
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
		fmt.Fprintf(a.err, "dmps chaos: %v\n", err)
	}
	fmt.Fprintf(a.err, "plan, history, report and logs are in %s\nagain: %s\n", dir, again)
	return &exitError{code: exitcode.Failure}
}

func (a *app) chaosRun(ctx context.Context, c chaosFlags, p *plan.Plan, dir string) (_ *run.Report, err error) {
	var t run.Target
	if c.target.value == "inproc" {
		t, err = run.StartInProcess(ctx, run.InProcessConfig{Dir: filepath.Join(dir, "meta"), Plan: p, Size: c.size})
	} else {
		bin, berr := os.Executable()
		if berr != nil {
			return nil, fmt.Errorf("finding this program: %w", berr)
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
	return run.Run(ctx, t, p, run.Options{Rate: rate, HealLimit: c.healLimit, Log: a.logger()})
}
