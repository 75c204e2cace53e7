// Command peers compares dmps with other NBD servers on this machine and
// writes peers.md and peers.json.
//
//	bin/peers -dmps bin/dmps -out bench-out
//	bin/peers -quick                # about two minutes
//	bin/peers -only nbdkit,quorum   # without dmps
//
// docs/measuring.md says what it does and how to read what it writes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dmps/chaos/research/peers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) == 1 && args[0] == echoArg {
		return peers.Echo(os.Stdin, os.Stdout)
	}
	if len(args) > 0 && args[0] == floorArg {
		return peers.Floor(ctx, args[1:])
	}
	var (
		fs      = flag.NewFlagSet("peers", flag.ExitOnError)
		dmps    = fs.String("dmps", "", "`path` of the dmps binary; empty: build ./cmd/dmps")
		out     = fs.String("out", "bench-out", "`folder` for peers.md and peers.json")
		only    = fs.String("only", "", "`names` of the contenders, separated by commas; empty: all but dmps-linear, dmps-striped and the floors (names: "+names()+")")
		cells   = fs.String("cells", "", "`text` that the name of a cell must contain, such as 4k, rand, \"128k seq\", qd32; empty: all")
		rounds  = fs.Int("rounds", 5, "rounds; numbers are medians over them")
		runtime = fs.Duration("runtime", 2*time.Second, "length of one measurement")
		size    = fs.Int64("size", 512, "`MiB` of each device: more than the CPU's caches")
		front   = fs.String("front", "unix", "medium between fio and the contenders: unix or tcp")
		quick   = fs.Bool("quick", false, "a smoke run: one round of 0.5 s on small devices, without nbd-server and qemu-nbd; its numbers are not for quoting")
	)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is not understood: flags only", fs.Args())
	}
	if *quick {
		quickly(fs, rounds, runtime, size, only)
	}
	plan := peers.Plan{Rounds: *rounds, Runtime: *runtime, Size: *size << 20, Front: *front, Dmps: *dmps, Progress: os.Stderr}
	if plan.Contenders, err = choose(*only); err != nil {
		return err
	}
	for _, c := range peers.Cells() {
		if strings.Contains(c.String(), *cells) {
			plan.Cells = append(plan.Cells, c)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	plan.Echo = []string{self, echoArg}
	plan.Floor = []string{self, floorArg}
	if _, err := exec.LookPath("fio"); err != nil {
		return errors.New("fio drives all measurements and is not installed: apt-get install fio")
	}
	if slices.ContainsFunc(plan.Contenders, isDmps) && plan.Dmps == "" {
		var remove func() error
		if plan.Dmps, remove, err = build(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
	}
	rep, err := plan.Run(ctx)
	if rep == nil || len(rep.Samples) == 0 {
		return err
	}
	return errors.Join(err, write(rep, *out), failures(rep))
}

// echoArg makes this program the other process of a TCP round trip, floorArg
// one of a floor's.
const (
	echoArg  = "-echo-for-round-trips"
	floorArg = "-floor"
)

// quickly shortens the run where the user did not say otherwise.
func quickly(fs *flag.FlagSet, rounds *int, runtime *time.Duration, size *int64, only *string) {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["rounds"] {
		*rounds = 1
	}
	if !given["runtime"] {
		*runtime = 500 * time.Millisecond
	}
	if !given["size"] {
		*size = 128
	}
	if !given["only"] {
		*only = strings.Join([]string{peers.NameNbdkit, peers.NameQuorum, peers.NameNone, peers.NameMirror, peers.NameRS}, ",")
	}
}

func isDmps(c peers.Contender) bool { return strings.HasPrefix(c.Name, "dmps-") }

func names() string {
	var all []string
	for _, c := range peers.Contenders() {
		all = append(all, c.Name)
	}
	return strings.Join(all, ", ")
}

func choose(only string) ([]peers.Contender, error) {
	all := peers.Contenders()
	if only == "" {
		return slices.DeleteFunc(all, func(c peers.Contender) bool {
			return c.Name == "dmps-linear" || c.Name == "dmps-striped" || strings.HasPrefix(c.Name, "floor-")
		}), nil
	}
	var chosen []peers.Contender
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(c peers.Contender) bool { return c.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no contender is called %q: use %s", name, names())
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// build compiles dmps as `make build` does.
func build(ctx context.Context) (bin string, remove func() error, err error) {
	dir, err := os.MkdirTemp("", "peers-bin-")
	if err != nil {
		return "", nil, err
	}
	remove = func() error { return os.RemoveAll(dir) }
	bin = filepath.Join(dir, "dmps")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "./cmd/dmps")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", nil, errors.Join(fmt.Errorf("build dmps: %w\n%s", err, msg), remove())
	}
	return bin, remove, nil
}

func write(rep *peers.Report, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	js, err := json.MarshalIndent(rep, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "peers.json"), append(js, '\n'), 0o644); err != nil {
		return err
	}
	var md strings.Builder
	if err := rep.WriteMarkdown(&md); err != nil {
		return err
	}
	path := filepath.Join(dir, "peers.md")
	if err := os.WriteFile(path, []byte(md.String()), 0o644); err != nil {
		return err
	}
	fmt.Print(md.String())
	fmt.Fprintf(os.Stderr, "written to %s and peers.json\n", path)
	return nil
}

// failures makes a run with failed measurements fail. Bars that are not reached
// do not: they are results, and depend on the machine.
func failures(rep *peers.Report) error {
	n := 0
	for _, s := range rep.Samples {
		if s.Err != "" {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of %d measurements failed", n, len(rep.Samples))
	}
	return nil
}
