// Command heal measures what failures and rebuilds cost; see package
// dmps/chaos/research/heal. It writes heal.txt and heal.json.
//
//	bin/heal -dmps bin/dmps -out bench-out
//	bin/heal -faults 100   # the longest request of each fault too
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"dmps/chaos/research/heal"
	"dmps/internal/bytesize"
	"dmps/raid"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "heal:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	bin := flag.String("dmps", "bin/dmps", "`path` of the dmps program")
	out := flag.String("out", "bench-out", "`folder` for heal.txt and heal.json")
	size := flag.Int64("size", 512, "`MiB` of the volume")
	each := flag.Duration("runtime", 3*time.Second, "length of a measurement without a rebuild")
	depth := flag.Int("depth", 4, "page-ins of 4 KiB in flight")
	faults := flag.Int("faults", 0, "kills and freezes of which the longest request is taken")
	flag.Parse()
	p := heal.Plan{
		Servers: 8, Geo: raid.Geometry{K: 4, M: 2}, Size: bytesize.Size(*size) * bytesize.MiB, Dead: []int{1, 2},
		Time: *each, Depth: *depth, Faults: *faults, Log: os.Stderr,
	}
	if p.Bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	r, err := heal.Run(ctx, p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(&r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(*out, "heal.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(*out, "heal.txt"))
	if err != nil {
		return err
	}
	return errors.Join(r.Table(f), f.Close(), r.Table(os.Stdout))
}
