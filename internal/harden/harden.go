package harden

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"dmps/internal/capability"
)

// marker is the variable that tells the program executed again from the first
// one. Its value is the process id, which stays the same: a child is not meant. Behind
// it is how many programs have executed themselves again one after the other.
const marker = "DMPS_HARDENED"

// maxRounds bounds them. A process may inherit the marker of a hardened one, or of an
// environment that was copied, and harden itself. That is one round more.
const maxRounds = 4

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
	ours, round := marked(os.Getenv(marker), os.Getpid())
	if !ours {
		if round >= maxRounds {
			return []error{fmt.Errorf("this program was executed again %d times and is not the one that was meant: unset %s, which is %q",
				round, marker, os.Getenv(marker))}
		}
		return []error{again(o, round+1)}
	}
	// What Self could not set before, Check finds missing now.
	return slices.Concat(Check(o), lower(oomFile), own("/", o.Cgroup))
}

// marked reads a marker: whether it is that of process pid, and how many rounds
// there were.
func marked(value string, pid int) (ours bool, round int) {
	who, n, _ := strings.Cut(value, " ")
	round, _ = strconv.Atoi(n) // not a number: nobody's, or of before there were rounds
	return who == strconv.Itoa(pid), round
}

// again sets what threads inherit and executes the program again.
func again(o Options, round int) error {
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
	// In the place of one that was inherited: of two the first one counts, and the
	// new program would not know that it is meant.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, marker+"=") })
	env = append(env, fmt.Sprintf("%s=%d %d", marker, os.Getpid(), round))
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
