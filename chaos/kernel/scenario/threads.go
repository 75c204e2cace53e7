package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// thread is what proc_pid_stat(5) tells of a thread.
type thread struct {
	cpuTime
	state    string
	cpu      uint64 // which it was last on
	realTime uint64 // priority; 0: none
	file     string // its folder in /proc
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
		before[t.file] = t.user + t.system
	}
	time.Sleep(time.Second)
	for _, t := range threads() {
		ran := t.user + t.system - before[t.file]
		if t.realTime == 0 && t.state != "R" && t.state != "D" && ran == 0 {
			continue
		}
		fmt.Printf("--- %v: %s on cpu %d, priority %d, ran %d ms of the last second\n", t.cpuTime, t.state, t.cpu, t.realTime, ran*10)
		if stack, err := os.ReadFile(filepath.Join(t.file, "stack")); err == nil { // or it has ended
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
		t, err := parseThread(string(b))
		if err != nil {
			fmt.Printf("%s: %v\n", f, err)
			continue
		}
		t.file = filepath.Dir(f)
		t.name = filepath.Base(filepath.Dir(filepath.Dir(t.file))) + "/" + t.name
		all = append(all, t)
	}
	return all
}

func parseThread(line string) (thread, error) {
	c, err := parseStat(line)
	if err != nil {
		return thread{}, err
	}
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	n, err := ticks(f, 36, 37)
	if err != nil {
		return thread{}, err
	}
	return thread{cpuTime: c, state: f[0], cpu: n[0], realTime: n[1]}, nil
}

func sysrq(key string) {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte(key), 0); err != nil {
		fmt.Println(strconv.Quote(key), err)
	}
}
