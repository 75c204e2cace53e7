package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/internal/procstat"
)

// thread is one of a process.
type thread struct {
	procstat.Task
	process string // its id
	dir     string // in /proc
}

// dumpThreads prints, of all threads that are not asleep or real-time ones,
// what they are doing and what they had of the processors in a second: it tells
// who does not let others run. It looks at itself as a real-time thread of the
// highest priority, or it might be one of those who cannot.
func dumpThreads() {
	runtime.LockOSThread() // never unlocked: the thread is thrown away
	param := struct{ priority int32 }{99}
	if _, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param))); errno != 0 {
		fmt.Printf("looking without priority: %v\n", errno)
	}
	before := make(map[string]uint64)
	for _, t := range threads() {
		before[t.dir] = t.User + t.System
	}
	time.Sleep(time.Second)
	for _, t := range threads() {
		ran := t.User + t.System - before[t.dir]
		if t.Priority == 0 && t.State != 'R' && t.State != 'D' && ran == 0 {
			continue
		}
		fmt.Printf("--- %s/%s: %c on cpu %d, policy %d, priority %d, ran %d ms of the last second\n", t.process, times(t.Task), t.State, t.CPU, t.Policy, t.Priority, ran*10)
		if stack, err := os.ReadFile(filepath.Join(t.dir, "stack")); err == nil { // or it has ended
			fmt.Printf("%s", stack)
		}
	}
	const debugfs = "/sys/kernel/debug"
	if err := unix.Mount("debugfs", debugfs, "debugfs", 0, ""); err != nil && err != unix.EBUSY {
		fmt.Printf("mounting debugfs: %v\n", err)
	}
	if b, err := os.ReadFile(filepath.Join(debugfs, "sched/debug")); err == nil {
		fmt.Printf("--- sched/debug\n%s\n", b)
	}
	for range 3 {
		sysrq("l") // the stacks of the processors
		time.Sleep(100 * time.Millisecond)
	}
}

// threads is all threads of the machine.
func threads() []thread {
	files, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	if err != nil {
		fmt.Println(err)
	}
	var all []thread
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		t, err := procstat.Parse(b)
		if err != nil {
			fmt.Printf("%s: %v\n", f, err)
			continue
		}
		dir := filepath.Dir(f)
		all = append(all, thread{t, filepath.Base(filepath.Dir(filepath.Dir(dir))), dir})
	}
	return all
}

func sysrq(key string) {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte(key), 0); err != nil {
		fmt.Println(strconv.Quote(key), err)
	}
}
