package harden

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of a task that PR_SET_IO_FLUSHER sets: PF_MEMALLOC_NOIO and
// PF_LOCAL_THROTTLE of include/linux/sched.h, as /proc/PID/stat shows them.
const (
	pfMemallocNoIO  = 0x00080000
	pfLocalThrottle = 0x00100000
	pfFlusher       = pfMemallocNoIO | pfLocalThrottle
)

// Fields of /proc/PID/stat after the name in parentheses, proc_pid_stat(5).
const (
	statFlags  = 9 - 3
	statPolicy = 41 - 3
)

// Task is what of a thread matters here.
type Task struct {
	Flusher bool // its allocations do no I/O (PR_SET_IO_FLUSHER)
	Policy  int  // of sched(7), as unix.SCHED_RR
}

// tasks are the threads of this process.
func tasks() ([]Task, error) {
	dir, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, fmt.Errorf("looking at the threads: %w", err)
	}
	var all []Task
	for _, d := range dir {
		b, err := os.ReadFile("/proc/self/task/" + d.Name() + "/stat")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("looking at the threads: %w", err)
		}
		t, err := ParseStat(b)
		if err != nil {
			return nil, fmt.Errorf("looking at thread %s: %w", d.Name(), err)
		}
		all = append(all, t)
	}
	return all, nil
}

// ParseStat reads /proc/PID/task/TID/stat.
func ParseStat(b []byte) (Task, error) {
	// The name may contain anything, parentheses too.
	i := bytes.LastIndexByte(b, ')')
	f := bytes.Fields(b[i+1:])
	if i < 0 || len(f) <= statPolicy {
		return Task{}, fmt.Errorf("%d fields in its stat", len(f))
	}
	flags, err := strconv.ParseUint(string(f[statFlags]), 10, 64)
	if err != nil {
		return Task{}, fmt.Errorf("its flags: %w", err)
	}
	policy, err := strconv.Atoi(string(f[statPolicy]))
	if err != nil {
		return Task{}, fmt.Errorf("its policy: %w", err)
	}
	return Task{Flusher: flags&pfFlusher == pfFlusher, Policy: policy}, nil
}

// setRoundRobin changes the calling thread, sched_setscheduler(2).
func setRoundRobin(priority int) error {
	param := struct{ priority int32 }{int32(priority)}
	if _, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_RR, uintptr(unsafe.Pointer(&param))); errno != 0 {
		return errno
	}
	return nil
}
