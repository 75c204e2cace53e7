package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

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
type tuner interface{ Tune() error }

// start has the kernel swap to a device that is being served.
func (s *swapFlags) start(dev kernelDevice, size int64, label string, log *slog.Logger) (err error) {
	if !s.on {
		return nil
	}
	path := dev.Path()
	space, err := swapctl.Find(path)
	if err != nil {
		return err
	}
	if space != nil {
		log.Info("the kernel swaps to the device already", "device", path, "used", human(uint64(space.Used)))
		return nil
	}
	if t, ok := dev.(tuner); ok {
		if err := t.Tune(); err != nil {
			return err
		}
	}
	p, err := s.format(path, size, label)
	if errors.Is(err, swapctl.ErrNotEmpty) {
		return &advised{fmt.Errorf("--swap %s: %w", path, err),
			"Whatever it is would be destroyed. If nobody needs it: --force, or a new volume."}
	}
	if err != nil {
		return fmt.Errorf("making %s swap space: %w", path, err)
	}
	if err := swapctl.On(path, s.priority, p.Dead); err != nil {
		return err
	}
	log.Info("the kernel swaps to the device", "device", path, "made", p.Made, "discarded", p.Dead, "priority", s.priority)
	return nil
}

func (s *swapFlags) format(path string, size int64, label string) (p swapctl.Prepared, err error) {
	// Nobody else may use it: O_EXCL on a block device claims it.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return swapctl.Prepared{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return swapctl.Format(f, size, label, bootID(), s.force)
}
