package harden

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/internal/procstat"
)

// Flags of a task that PR_SET_IO_FLUSHER sets: PF_MEMALLOC_NOIO and
// PF_LOCAL_THROTTLE of include/linux/sched.h, as /proc/PID/stat shows them.
const (
	pfMemallocNoIO  = 0x00080000
	pfLocalThrottle = 0x00100000
	pfFlusher       = pfMemallocNoIO | pfLocalThrottle
)

// Flusher reports whether allocations for a thread do no I/O (PR_SET_IO_FLUSHER).
func Flusher(t procstat.Task) bool { return t.Flags&pfFlusher == pfFlusher }

// tasks are the threads of this process.
func tasks() ([]procstat.Task, error) {
	dir, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, fmt.Errorf("looking at the threads: %w", err)
	}
	var all []procstat.Task
	for _, d := range dir {
		b, err := os.ReadFile("/proc/self/task/" + d.Name() + "/stat")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("looking at the threads: %w", err)
		}
		t, err := procstat.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("looking at thread %s: %w", d.Name(), err)
		}
		all = append(all, t)
	}
	return all, nil
}

// Try does for a thread of its own, which then ends, what Self does for all of them. A
// right that a process has may not count: a seccomp filter, or a group that has no
// real-time share (CONFIG_RT_GROUP_SCHED), denies it all the same.
func Try(priority int) error {
	tried := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends with the goroutine
		err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
		if err != nil {
			err = fmt.Errorf("becoming an I/O flusher: %w", err)
		}
		if rerr := setRoundRobin(priority); rerr != nil {
			err = errors.Join(err, fmt.Errorf("being scheduled before others (SCHED_RR): %w", rerr))
		}
		tried <- err
	}()
	return <-tried
}

// setRoundRobin changes the calling thread, sched_setscheduler(2).
func setRoundRobin(priority int) error {
	param := struct{ priority int32 }{int32(priority)}
	if _, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_RR, uintptr(unsafe.Pointer(&param))); errno != 0 {
		return errno
	}
	return nil
}
