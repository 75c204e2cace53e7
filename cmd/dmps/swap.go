package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dmps/internal/blockdev"
	"dmps/internal/swapctl"
)

// swapFlags say whether the kernel swaps to the device.
type swapFlags struct {
	on       bool
	priority int
	force    bool
}

func (s *swapFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&s.on, "swap", false, "have the kernel swap to the device: mkswap, when it holds nothing, and swapon with discard; tried in test guests only (docs/swap.md)")
	fl.IntVar(&s.priority, "swap-priority", swapctl.DefaultPriority, "`priority` of the swap space, 0 to 32767; of several the highest is filled first (default: below all others)")
	fl.BoolVar(&s.force, "force", false, "with --swap: make it swap space whatever it holds")
	noCompletion(cmd, "swap-priority")
}

func (s *swapFlags) check(device string) error {
	switch {
	case s.on && device == "":
		return usageError("--swap needs a --device")
	case s.force && !s.on:
		return usageError("--force goes with --swap")
	case s.priority < swapctl.DefaultPriority || s.priority > swapctl.MaxPriority:
		return usageError("--swap-priority %d: 0 to %d", s.priority, swapctl.MaxPriority)
	}
	return nil
}

// tuner is a kernelDevice whose queue may be another than swap needs: an earlier
// client was killed before it set that.
type tuner interface {
	Tune(ctx context.Context) error
}

// start has the kernel swap to a device that is being served, as another process:
// this one must not wait for the device.
func (s *swapFlags) start(ctx context.Context, dev kernelDevice, size int64, label string, log *slog.Logger) (err error) {
	if !s.on {
		return nil
	}
	path := dev.Path()
	p, on, err := s.begin(ctx, dev, size, label, log, func(dead bool) error { return s.swapon(ctx, path, dead) })
	switch {
	case err != nil && ctx.Err() != nil:
		log.Info("told to end before the kernel swaps to the device", "device", path)
		return nil // as it was told: no failure, after which it would be started again
	case errors.Is(err, swapctl.ErrNotEmpty):
		return &advised{fmt.Errorf("--swap %s: %w", path, err),
			"Whatever it is would be destroyed. If nobody needs it: --force, or a new volume."}
	case err != nil:
		return fmt.Errorf("making %s swap space: %w", path, err)
	case !on:
		log.Info("the kernel swaps to the device", "device", path, "made", p.Made, "discarded", p.Dead, "priority", s.priority)
	}
	return nil
}

// How often, and how long, the device is asked for while another process has it. A
// process that an earlier client left in a call has it until its pages come. Anybody
// else who does not just look at a new device uses it.
const (
	claimPoll     = 100 * time.Millisecond
	claimPatience = time.Minute // for a call of an earlier client
	lookPatience  = time.Second // for others
)

// begin makes the device swap space and calls swapon, unless the kernel swaps to it
// already: then on is true. A call of an earlier client may come before either.
func (s *swapFlags) begin(ctx context.Context, dev kernelDevice, size int64, label string, log *slog.Logger, swapon func(dead bool) error) (p swapctl.Prepared, on bool, err error) {
	path := dev.Path()
	err = untilUnused(ctx, func() ([]int, error) { return blockdev.CallsFor(path) }, func() error {
		if p, on, err = s.prepare(ctx, dev, size, label, log); err != nil || on {
			return err
		}
		return swapon(p.Dead)
	})
	return p, on, err
}

// prepare makes the device swap space, unless the kernel swaps to it already: then
// on is true.
func (s *swapFlags) prepare(ctx context.Context, dev kernelDevice, size int64, label string, log *slog.Logger) (p swapctl.Prepared, on bool, err error) {
	space, err := swapctl.Find(dev.Path())
	if err != nil {
		return p, false, err
	}
	if space != nil {
		log.Info("the kernel swaps to the device already", "device", dev.Path(), "used", human(uint64(space.Used)))
		return p, true, nil
	}
	if t, ok := dev.(tuner); ok {
		if err := t.Tune(ctx); err != nil {
			return p, false, err
		}
	}
	p, err = s.format(ctx, dev.Path(), size, label)
	return p, false, err
}

// untilUnused tries until it is not for EBUSY that it fails. calls are those that
// earlier clients left for the device.
func untilUnused(ctx context.Context, calls func() ([]int, error), try func() error) error {
	var used time.Time // since when somebody has it who makes no such call
	for began := time.Now(); ; {
		err := try() // it may wait for a call, and fail because that has just ended well
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		left, lerr := calls()
		switch {
		case lerr != nil:
			return errors.Join(err, lerr)
		case len(left) > 0 && time.Since(began) > claimPatience:
			return fmt.Errorf("a call of an earlier client (process %d) waits for its pages still: %w", left[0], err)
		case len(left) > 0:
			used = time.Time{}
		case used.IsZero():
			used = time.Now()
		case time.Since(used) > lookPatience:
			return fmt.Errorf("somebody uses it, mounted, as a part of another device, or for himself alone: %w", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(claimPoll):
		}
	}
}

func (s *swapFlags) format(ctx context.Context, path string, size int64, label string) (p swapctl.Prepared, err error) {
	answer, release, err := blockdev.Apart(ctx, "format", path, strconv.FormatInt(size, 10), label, bootID(), strconv.FormatBool(s.force))
	if err != nil {
		return swapctl.Prepared{}, err
	}
	_, err = fmt.Sscan(answer, &p.Made, &p.Dead)
	if err = errors.Join(err, release()); err != nil {
		return swapctl.Prepared{}, err
	}
	return p, nil
}

// swapon has the kernel swap to the device, and discard what is there if it is dead.
func (s *swapFlags) swapon(ctx context.Context, path string, dead bool) error {
	_, release, err := blockdev.Apart(ctx, "swapon", swaponArgs(path, s.priority, dead)...)
	if err != nil {
		return err
	}
	return release()
}
