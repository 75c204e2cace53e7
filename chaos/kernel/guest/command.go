package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"dmps/chaos/kernel/scenario"
)

// command runs one of the guest's programs and returns its exit status.
func command(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(args) == 0 {
		args = []string{""}
	}
	var err error
	switch args[0] {
	case "scenario":
		err = runScenario(ctx, args[1:])
	case "hog":
		err = runHog(ctx, args[1:])
	case "end":
		err = runEnd(ctx, args[1:])
	case "probe":
		err = runProbe(args[1:])
	case "plain":
		err = runPlain(ctx, args[1:])
	default:
		err = fmt.Errorf("no such program: %q", args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return 1
	}
	return 0
}

// lastMoments is what it takes to boot, and to print the logs of what hangs.
const lastMoments = 30 * time.Second

// runScenario is scenario [-duration D] [-seed N] NAME.
func runScenario(ctx context.Context, args []string) error {
	g := new(scenario.Guest)
	fl := flag.NewFlagSet("scenario", flag.ContinueOnError)
	fl.DurationVar(&g.Duration, "duration", 0, "how long, for scenarios that go on for a while")
	fl.Uint64Var(&g.Seed, "seed", 1, "seed of what is written, and in which order")
	limit := fl.Duration("limit", 0, "when the guest is ended, so that the logs are shown before; 0: never")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if err := lockMemory(); err != nil {
		return err
	}
	if *limit > 0 {
		defer time.AfterFunc(*limit-lastMoments, g.Dump).Stop()
	}
	s, err := scenario.Find(fl.Arg(0))
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.Do(ctx, g); err != nil {
		g.Dump()
		return fmt.Errorf("scenario %s failed after %.0f s: %w", s.Name, time.Since(began).Seconds(), err)
	}
	fmt.Printf("scenario %s passed in %.0f s\n", s.Name, time.Since(began).Seconds())
	return nil
}

// runHog is hog MIB SEED. It prints a line for each turn.
func runHog(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("hog MIB SEED")
	}
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("hog: %w", err)
	}
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return fmt.Errorf("hog: %w", err)
	}
	return scenario.Hog(ctx, mib, seed, func(turn, pages int) { fmt.Printf("turn %d: %d pages\n", turn, pages) })
}

// runProbe is probe MIB TOUCHES SEED.
func runProbe(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("probe MIB TOUCHES SEED")
	}
	mib, err1 := strconv.Atoi(args[0])
	touches, err2 := strconv.Atoi(args[1])
	seed, err3 := strconv.ParseUint(args[2], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return scenario.PrintProbe(mib, touches, seed)
}

// runPlain is plain INDEX BYTES unix|tcp.
func runPlain(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("plain INDEX BYTES unix|tcp")
	}
	index, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("plain: %w", err)
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return fmt.Errorf("plain: %w", err)
	}
	return scenario.Plain(ctx, index, size, args[2])
}
