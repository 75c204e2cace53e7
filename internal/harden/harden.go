package harden

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"dmps/internal/capability"
)

// marker is the variable that tells the program executed again from the first
// one. Its value is the process id, which stays the same: a child is not meant.
const marker = "DMPS_HARDENED"

// Options say what to do.
type Options struct {
	Priority int    // of SCHED_RR, 1 to 99; 0: the scheduler is left as it is
	Cgroup   string // name of a cgroup without swap; "": the one that the process is in is kept
}

// Self hardens the process. The first call executes the program again, with the
// same arguments, and does not return when that works; the second returns what
// could not be had, each with what would help. The caller decides whether to go
// on.
func Self(o Options) []error {
	if os.Getenv(marker) != fmt.Sprint(os.Getpid()) {
		return []error{again(o)}
	}
	// What Self could not set before, Check finds missing now.
	return slices.Concat(Check(o), lower(oomFile), own("/", o.Cgroup))
}

// again sets what threads inherit and executes the program again.
func again(o Options) error {
	runtime.LockOSThread() // what is set belongs to this thread, which becomes the process
	// An error here is found by Check, which can say it once everything is
	// known.
	_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
	if o.Priority > 0 {
		_ = setRoundRobin(o.Priority)
	}
	// Memory stays charged to the cgroup in which it was taken, so the new
	// program is to be in its own from its first page on. Self looks again.
	_ = own("/", o.Cgroup)
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("executing the program again: %w", err)
	}
	env := append(os.Environ(), fmt.Sprintf("%s=%d", marker, os.Getpid()))
	return fmt.Errorf("executing the program again: %w", unix.Exec(path, os.Args, env))
}

// Check reports which threads of the process are not as they should be.
func Check(o Options) []error {
	tasks, err := tasks()
	if err != nil {
		return []error{err}
	}
	var flusher, ordinary int
	for _, t := range tasks {
		if !Flusher(t) {
			flusher++
		}
		if o.Priority > 0 && t.Policy != unix.SCHED_RR {
			ordinary++
		}
	}
	var missing []error
	if flusher > 0 {
		missing = append(missing, fmt.Errorf("%d of %d threads are no I/O flushers, whose allocations do not wait for I/O: %w",
			flusher, len(tasks), because("CAP_SYS_RESOURCE, and Linux 5.6", unix.CAP_SYS_RESOURCE)))
	}
	if ordinary > 0 {
		missing = append(missing, fmt.Errorf("%d of %d threads are not scheduled before ordinary ones, in turn with each other (SCHED_RR): %w",
			ordinary, len(tasks), because("CAP_SYS_NICE, or LimitRTPRIO", unix.CAP_SYS_NICE)))
	}
	return missing
}

// because says what is needed, and whether that is what is missing.
func because(needs string, right uint) error {
	if !capability.Has(right) {
		return fmt.Errorf("it needs %s, which this process does not have", needs)
	}
	return errors.New("it needs " + needs)
}
