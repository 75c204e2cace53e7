package main

import (
	"errors"
	"fmt"
	"log/slog"

	"dmps/internal/doctor"
	"dmps/internal/harden"
)

const realtimePriority = doctor.Priority

// attachCgroup is the cgroup that an attach of a volume makes, when it is in none.
func attachCgroup(volume string) string { return "dmps-attach-" + volume }

// meets is nil when a machine has what attach --device needs, by the list that
// doctor goes by. What this process then does not get is protect's to say.
func meets(h *doctor.Host, w doctor.Waivers) error {
	refused := doctor.Refused(h, w)
	var all []error
	for _, f := range refused {
		all = append(all, fmt.Errorf("%s: %s: %s; %s", f.Check, f.Found, f.Why, f.Fix))
	}
	if len(all) == 0 {
		return nil
	}
	advice := "'dmps doctor' looks at more."
	if least := doctor.Refused(h, doctor.Waivers{Unprotected: true, Swappable: true}); len(least) < len(refused) {
		advice += " --allow-unprotected and --allow-swappable go on without protection, for what this machine does not swap to."
	}
	return &advised{fmt.Errorf("this machine lacks what a device needs: %w", errors.Join(all...)), advice}
}

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
