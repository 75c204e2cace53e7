package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/chaos/cluster"
	"dmps/internal/bytesize"
	"dmps/internal/loadgen"
	"dmps/internal/nbdclient"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// demoFlags say what is shown.
type demoFlags struct {
	devFlags
	kill int // servers; -1: as many as the volume survives
	seed uint64
}

func (a *app) demoCommand() *cobra.Command {
	var d demoFlags
	cmd := &cobra.Command{
		Use:     "demo",
		Short:   "See memory servers die without losing a byte",
		GroupID: groupTry,
		Long: `Starts a cluster on this machine as 'dmps dev' does, fills a volume with random
data through NBD, kills memory servers in the middle of it (SIGKILL), overwrites
some of the data, reads everything back and compares it byte by byte.

The exit code is 0 only when every byte was right and no request failed. Takes
about half a minute, and about twice the volume's size of memory.`,
		Example: `  dmps demo
  dmps demo --redundancy mirror:3 --servers 5
  dmps demo --size 2GiB --server-memory 1GiB --kill 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.demo(cmd.Context(), d)
		},
	}
	d.add(cmd)
	d.shape.size, d.memory = 512*bytesize.MiB, 256*bytesize.MiB
	f := cmd.Flags()
	for _, name := range []string{"size", "server-memory"} {
		f.Lookup(name).DefValue = f.Lookup(name).Value.String()
	}
	f.IntVar(&d.kill, "kill", -1, "`number` of memory servers to kill (default: as many as the volume survives)")
	f.Uint64Var(&d.seed, "seed", 0, "`seed` of the data and of the choice of servers (default: another each time)")
	noCompletion(cmd, "kill", "seed")
	return cmd
}

func (a *app) demo(ctx context.Context, d demoFlags) error {
	survives := d.shape.redundancy.M
	if d.kill < 0 {
		d.kill = survives
	}
	if d.kill > survives {
		return usageError("a volume of %v survives the loss of %d servers, not of %d", &d.shape.redundancy, survives, d.kill)
	}
	if d.seed == 0 {
		d.seed = rand.Uint64()
	}
	if d.shape.size < demoBlock {
		return usageError("--size %v: the demo needs at least %v", d.shape.size, bytesize.Size(demoBlock))
	}
	d.shape.size = d.shape.size / demoBlock * demoBlock
	return a.inFolder("", func(dir string) error {
		d.nbd = "unix:" + filepath.Join(dir, "nbd.sock")
		d.dir = dir
		cfg, err := d.config(a)
		if err != nil {
			return err
		}
		cfg.Progress = a.progress("dmps demo")
		cfg.Log = nil // that servers end is no surprise here
		begin := time.Now()
		c, err := cluster.Start(ctx, cfg)
		if err != nil {
			return err
		}
		file := c.File()
		cfg.Progress(fmt.Sprintf("serving %s, %d processes, after %v", file.NBD, len(file.Roles()), time.Since(begin).Round(10*time.Millisecond)))
		r, err := a.runDemo(ctx, c, d)
		if r != nil {
			// The status is asked while everything still runs.
			err = errors.Join(err, a.demoStatus(ctx, c, r))
		}
		cfg.Progress("ending all roles")
		if err := errors.Join(err, c.Stop()); err != nil {
			return err
		}
		if err := a.demoSummary(r, d); err != nil {
			return err
		}
		return r.verdict()
	})
}

// demoResult is what the demo saw.
type demoResult struct {
	fill, rewrite, verify phase
	rewritten             int64 // bytes
	killed                []string
	killedAt              string
	wrongBytes            int64
	volume                volumeStatus
	servers               []metaclient.Server
}

// verdict is nil when the demo showed what it should.
func (r *demoResult) verdict() error {
	var errs []error
	if r.wrongBytes > 0 {
		errs = append(errs, fmt.Errorf("%d bytes are wrong", r.wrongBytes))
	}
	if n := r.fill.failed + r.rewrite.failed + r.verify.failed; n > 0 {
		errs = append(errs, fmt.Errorf("%d requests failed", n))
	}
	return errors.Join(errs...)
}

func (a *app) runDemo(ctx context.Context, c *cluster.Cluster, d demoFlags) (*demoResult, error) {
	addr, err := nbdclient.ParseURI(c.File().NBD)
	if err != nil {
		return nil, err
	}
	dev, err := nbdclient.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	l := &demoLoad{
		dev: dev, data: loadgen.Data{Seed: d.seed},
		blocks: int64(d.shape.size) / demoBlock,
		gen:    make([]uint32, int64(d.shape.size)/loadgen.PageSize),
	}
	show := a.newProgressView()
	defer show.close()
	r := &demoResult{}

	kill := l.blocks / 2
	r.fill, err = l.run(ctx, "write", l.blocks, show, l.fillBlock, func(done int64) error {
		if done != kill {
			return nil
		}
		r.killedAt = fmt.Sprintf("after %s of %s", human(done*demoBlock), human(int64(d.shape.size)))
		return a.killServers(c, d, r, show)
	})
	if err != nil {
		return r, err
	}
	pages := int64(len(l.gen)) / rewriteShare
	r.rewritten = pages * loadgen.PageSize
	l.order = rand.New(rand.NewPCG(d.seed, 2)).Perm(len(l.gen))[:pages]
	r.rewrite, err = l.run(ctx, "overwrite", pages, show, l.rewritePage, nil)
	if err != nil {
		return r, err
	}
	r.verify, err = l.run(ctx, "verify", l.blocks, show, l.verifyBlock, nil)
	r.wrongBytes = l.wrong.Load()
	return r, err
}

// killServers picks servers by the seed and kills them.
func (a *app) killServers(c *cluster.Cluster, d demoFlags, r *demoResult, show *progressView) error {
	servers := c.File().Servers
	for _, i := range rand.New(rand.NewPCG(d.seed, 1)).Perm(len(servers))[:d.kill] {
		s := servers[i]
		if err := c.Kill(s.ID); err != nil {
			return err
		}
		r.killed = append(r.killed, s.ID)
		show.say(fmt.Sprintf("killed %s (pid %d) with SIGKILL", s.ID, s.PID))
	}
	slices.Sort(r.killed)
	return nil
}

// demoStatus asks what `dmps status` would show.
func (a *app) demoStatus(ctx context.Context, c *cluster.Cluster, r *demoResult) error {
	meta, err := metaclient.New(c.File().MetaURLs, metaclient.WithPatience(a.timeout))
	if err != nil {
		return err
	}
	defer meta.Close()
	st, err := gatherStatus(ctx, meta)
	if err != nil {
		return err
	}
	for _, v := range st.Volumes {
		if v.Name == c.File().Volume {
			r.volume = v
		}
	}
	r.servers = st.Servers
	fmt.Fprintln(a.out)
	return a.printStatus(st, "table", false)
}

func (a *app) demoSummary(r *demoResult, d demoFlags) error {
	p := paletteFor(a.out)
	title := p.paint(colourBold+colourGood, "Every byte is there.")
	if r.verdict() != nil {
		title = p.paint(colourBold+colourBad, "NOT everything is there.")
	}
	fmt.Fprintf(a.out, "\n%s\n\n", title)
	var t table
	add := func(name, value string) { t.row("  "+name, value) }
	g := raid.Geometry(d.shape.redundancy)
	add("volume", fmt.Sprintf("%s, %v on %d memory servers, over NBD", human(int64(d.shape.size)), g, d.servers))
	add("written", r.fill.String())
	killed := "none"
	if len(r.killed) > 0 {
		killed = fmt.Sprintf("%s, with SIGKILL, %s", strings.Join(r.killed, " and "), r.killedAt)
	}
	add("killed", killed)
	add("overwritten", r.rewrite.String()+", in random 4 KiB pieces")
	add("read back", r.verify.String())
	add("longest stall", fmt.Sprintf("%v of a write, %v of a read",
		max(r.fill.longest, r.rewrite.longest).Round(time.Millisecond/10), r.verify.longest.Round(time.Millisecond/10)))
	add("volume now", fmt.Sprintf("%s: %d of %d groups degraded, %s",
		p.state(string(r.volume.State)), r.volume.DegradedGroups, r.volume.Groups, canLoseMore(&r.volume.Volume)))
	add("failed requests", fmt.Sprint(r.fill.failed+r.rewrite.failed+r.verify.failed))
	add("wrong bytes", fmt.Sprintf("%d of %d", r.wrongBytes, r.verify.bytes))
	add("seed", fmt.Sprint(d.seed))
	return t.print(a.out)
}
