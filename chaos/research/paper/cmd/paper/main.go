// Paper measures the figures of the paper in guests and draws them:
//
//	bin/paper -dmps bin/dmps            # all: some 25 minutes
//	bin/paper -dmps bin/dmps -quick -only fill,apps -out /tmp/paper
//	bin/paper -draw                     # again, from the data
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dmps/chaos/research/paper"
	"dmps/chaos/research/paper/draw"
	"dmps/chaos/research/paper/host"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "paper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var (
		drawOnly = flag.Bool("draw", false, "measure nothing: draw what lies in the folder of data")
		quick    = flag.Bool("quick", false, "small sizes and short times: to try, not to show")
		only     = flag.String("only", strings.Join(paper.Figures, ","), "which `figures`")
		device   = flag.String("device", "", "only this `device` of those that a figure compares: to look for what is wrong, with another -out")
		out      = flag.String("out", "docs/paper", "`folder` for the pictures, and its folder data for what was measured")
		dmps     = flag.String("dmps", "bin/dmps", "the `program` dmps, static")
		cache    = flag.String("cache", "bin/kernel", "`folder` in which the guest's kernel is kept")
		limit    = flag.Duration("timeout", 15*time.Minute, "how long one figure may take")
	)
	flag.Parse()
	data := filepath.Join(*out, "data")
	if !*drawOnly {
		h := host.Host{Dmps: *dmps, Cache: *cache, Data: data, Device: *device, Quick: *quick, Out: os.Stdout}
		if err := measure(ctx, &h, strings.Split(*only, ","), *limit); err != nil {
			return err
		}
	}
	drawn, missing, err := draw.All(data, *out)
	fmt.Printf("drawn in %s: %s\n", *out, strings.Join(drawn, ", "))
	if len(missing) > 0 {
		fmt.Printf("not measured: %s\n", strings.Join(missing, ", "))
	}
	return err
}

// measure goes on after a figure that failed: the others are worth having.
func measure(ctx context.Context, h *host.Host, figures []string, limit time.Duration) (err error) {
	for _, f := range figures {
		if !slices.Contains(paper.Figures, f) {
			return fmt.Errorf("there is no figure %q: choose from %s", f, strings.Join(paper.Figures, ", "))
		}
	}
	if err := h.Prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	var errs []error
	for _, f := range figures {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		start := time.Now()
		fmt.Printf("== %s\n", f)
		err := h.Measure(ctx, f, limit)
		fmt.Printf("== %s took %v\n", f, time.Since(start).Round(time.Second))
		if err != nil {
			fmt.Fprintln(os.Stderr, "paper:", err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
