package main

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"dmps/internal/bytesize"
)

// errCannotLock is a process that would be swapped out like any other.
var errCannotLock = errors.New("memory cannot be locked")

// lockMemory locks all present and future memory of the process: a client that
// waits for a page of its own to be swapped in waits for itself.
//
// Failure is fatal unless allowed; then locked is false.
func lockMemory(allowSwappable bool, log *slog.Logger) (locked bool, err error) {
	err = mlockAll()
	if err == nil {
		return true, nil
	}
	err = fmt.Errorf("%w: %w: run as root or with CAP_IPC_LOCK, or raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity)", errCannotLock, err)
	if !allowSwappable {
		return false, fmt.Errorf("%w; for a try without swapping to the volume, --allow-swappable goes on unlocked", err)
	}
	log.Warn("MEMORY IS NOT LOCKED: this machine must not swap to a volume that is served like this, it could wait for itself", "error", err)
	return false, nil
}

// mlockAll asks only when all future memory can be locked too. With a limit,
// the call would succeed now and a mapping of the Go runtime fail later, which
// ends the process.
func mlockAll() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("reading the limit of locked memory: %w", err)
	}
	if limit.Cur != unix.RLIM_INFINITY {
		// Root may raise it; CAP_IPC_LOCK makes it meaningless.
		all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all); err != nil && !mayLockAll() {
			return fmt.Errorf("the limit is %v", bytesize.Size(limit.Cur))
		}
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
		return fmt.Errorf("mlockall: %w", err)
	}
	return nil
}

// mayLockAll reports whether the process has CAP_IPC_LOCK.
func mayLockAll() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}

// fixHeap makes the Go heap a fixed cost: the collector works harder near the
// limit instead of taking more. Page buffers and the page map of a volume are
// outside of it, so what is left is small and does not grow with the load.
func fixHeap(limit bytesize.Size) { debug.SetMemoryLimit(int64(limit)) }
