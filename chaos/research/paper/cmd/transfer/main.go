// Transfer draws what was measured of the carriers of pages, by size, and prints how
// it stands to what was asked for. Without a guest it is what
// `go test -tags fabric ./transport/fabric -run Figure -figure docs/transport` has
// measured; with -guest it first measures soft RoCE, in a guest:
//
//	bin/transfer -dir docs/transport
//	bin/transfer -dir docs/transport -guest bin/kernel
package main

import (
	"context"
	"dmps/chaos/figures"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"dmps/chaos/kernel"
	"dmps/chaos/research/paper"
	"dmps/chaos/research/paper/draw"
	"dmps/chaos/research/paper/host"
)

func main() {
	dir := flag.String("dir", "docs/transport", "`folder` of what was measured, and for the pictures")
	verbs := flag.Bool("verbs", false, "draw what was measured with -guest")
	var g guest
	flag.StringVar(&g.cache, "guest", "", "measure soft RoCE in a guest, whose kernel is kept in this `folder`")
	flag.IntVar(&g.rounds, "rounds", 3, "with -guest: how often the carriers take turns")
	flag.DurationVar(&g.slice, "slice", 200*time.Millisecond, "with -guest: how long one size is measured at a time")
	flag.DurationVar(&g.limit, "limit", 15*time.Minute, "with -guest: how long the guest may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	figure, err := figures.FigureTransfer, error(nil)
	if g.cache != "" || *verbs {
		figure = figures.FigureVerbs
	}
	if g.cache != "" {
		err = g.measure(ctx, figure, *dir)
	}
	if err == nil {
		err = show(figure, *dir)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "transfer:", err)
		os.Exit(1)
	}
}

// guest is how a figure is measured in one.
type guest struct {
	cache  string
	rounds int
	slice  time.Duration
	limit  time.Duration
}

func (g *guest) measure(ctx context.Context, figure, dir string) error {
	build, err := os.MkdirTemp("", "transfer-")
	if err != nil {
		return fmt.Errorf("a folder to build in: %w", err)
	}
	defer os.RemoveAll(build) // a rest of it does no harm
	_, tests, err := kernel.BuildFabric(ctx, build)
	if err != nil {
		return err
	}
	pid1, err := kernel.Build(ctx, build, "dmps/chaos/kernel/guest")
	if err != nil {
		return err
	}
	const program = "/bin/fabric.test"
	c := paper.NewConsole(figure, false, os.Stdout)
	s := kernel.Spec{
		Cache: g.cache, Guest: pid1, Linked: map[string]string{program: tests}, RDMA: true,
		Argv:      []string{program, "-test.run", "^TestFigure$", "-test.v", "-figure", "-", "-figure-rounds", strconv.Itoa(g.rounds), "-figure-slice", g.slice.String()},
		MemoryMiB: 1024, CPUs: 2, Timeout: g.limit, Console: c,
	}
	r, err := s.Run(ctx)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return fmt.Errorf("figure %s: %w", figure, err)
	}
	d, err := c.Result(host.Commit(ctx))
	if err != nil {
		return fmt.Errorf("figure %s: %w", figure, err)
	}
	return d.Save(dir)
}

func show(figure, dir string) error {
	d, err := figures.Load[figures.TransferRow](dir, figure)
	if err != nil {
		return err
	}
	fmt.Printf("measured %s in %.0f s, load %s before and %s after\n", d.Started.Format("2006-01-02 15:04"), d.Took, d.Load[0], d.Load[1])
	for _, b := range figures.TransferBars(figure, d.Rows) {
		fmt.Println(b)
	}
	drawn, err := draw.Transfer(figure, dir, dir)
	fmt.Printf("drawn in %s: %s\n", dir, strings.Join(drawn, ", "))
	return err
}
