package main

import (
	"errors"
	"fmt"
	"log/slog"

	"dmps/internal/harden"
)

// realtimePriority is that of SCHED_RR: before all ordinary processes, behind
// the kernel's own threads, which are at 50.
const realtimePriority = 10

// protect makes this process one that the kernel can wait for (package harden).
// It executes the program again the first time. Without unprotected, what
// cannot be had is an error.
func protect(cgroup string, unprotected bool, log *slog.Logger) error {
	missing := harden.Self(harden.Options{Priority: realtimePriority, Cgroup: cgroup})
	if len(missing) == 0 {
		return nil
	}
	if !unprotected {
		return fmt.Errorf("this process cannot be protected from waiting for itself: %w; --allow-unprotected goes on without, for what this machine does not swap to", errors.Join(missing...))
	}
	for _, err := range missing {
		log.Warn("NOT PROTECTED: this machine must not swap to what this process serves, it could wait for itself", "missing", err)
	}
	return nil
}

// protectRole does the same for a server or a metadata node on a machine that
// swaps; priority 0 leaves the scheduler as it is.
func protectRole(cgroup string, priority int) error {
	if missing := harden.Self(harden.Options{Priority: priority, Cgroup: cgroup}); len(missing) > 0 {
		return fmt.Errorf("this process cannot be kept from waiting for what this machine swaps to: %w; run it as root, on another machine, or without --protect if this one does not swap to dmps", errors.Join(missing...))
	}
	return nil
}
