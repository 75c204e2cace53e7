package main

import (
	"errors"
	"fmt"
	"log/slog"

	"dmps/internal/memlock"
)

// mustLockMemory locks all present and future memory of the process.
func mustLockMemory() error {
	err := memlock.Lock()
	if errors.Is(err, memlock.ErrDenied) {
		err = fmt.Errorf("%w: run as root or with CAP_IPC_LOCK, or raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity)", err)
	}
	return err
}

// lockMemory is mustLockMemory for a command with --allow-swappable. Failure is
// fatal unless allowed; then locked is false.
func lockMemory(allowSwappable bool, log *slog.Logger) (locked bool, err error) {
	err = mustLockMemory()
	if err == nil {
		return true, nil
	}
	if !allowSwappable {
		return false, fmt.Errorf("%w; --allow-swappable goes on without, for volumes that this machine does not swap to", err)
	}
	log.Warn("MEMORY IS NOT LOCKED: this machine must not swap to a volume that is served like this, it could wait for itself", "error", err)
	return false, nil
}
