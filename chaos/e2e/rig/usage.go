package rig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// ClockTick is the unit of CPU times in /proc. USER_HZ is 100 on
// every architecture that Go runs on.
const ClockTick = 10 * time.Millisecond

// Usage is what a process and its children have used so far.
type Usage struct {
	CPU  time.Duration // user and system time, of reaped children too; in steps of 10 ms
	Peak int64         // highest resident size in bytes, of the process alone
}

// UsageOf reads a process. A process that is gone is an error.
func UsageOf(pid int) (Usage, error) {
	st, err := readStat(pid)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{CPU: time.Duration(st.ticks) * ClockTick}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %d: %w", pid, err)
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			f := bytes.Fields(rest)
			if len(f) == 0 {
				return Usage{}, fmt.Errorf("usage of %d: VmHWM is empty", pid)
			}
			kb, err := strconv.ParseInt(string(f[0]), 10, 64)
			if err != nil {
				return Usage{}, fmt.Errorf("usage of %d: VmHWM: %w", pid, err)
			}
			u.Peak = kb << 10
		}
	}
	return u, nil
}

// Tree lists a process and all its living descendants, the process first.
func Tree(pid int) ([]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, dir := range all {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		st, err := readStat(child)
		if err != nil {
			continue // ended meanwhile
		}
		children[st.parent] = append(children[st.parent], child)
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree, nil
}

// Alive reports whether a process exists and is not a zombie.
func Alive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && st.state != 'Z' && st.state != 'X'
}

// procStat is what is needed of /proc/PID/stat.
type procStat struct {
	state  byte
	parent int
	ticks  uint64 // utime+stime+cutime+cstime
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	st, err := parseStat(b)
	if err != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return st, nil
}

// parseStat reads proc_pid_stat(5). The name may hold spaces and parentheses:
// the fields start behind the last one.
func parseStat(b []byte) (procStat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return procStat{}, fmt.Errorf("no name in %q", b)
	}
	f := bytes.Fields(b[i+1:])
	const (
		state, parent   = 0, 1
		utime, cstimeTo = 11, 15
	)
	if len(f) < cstimeTo {
		return procStat{}, fmt.Errorf("%d fields behind the name, want %d", len(f), cstimeTo)
	}
	st := procStat{state: f[state][0]}
	if len(f[state]) != 1 || st.state < 'A' || st.state > 'z' {
		return procStat{}, fmt.Errorf("%q is no state of a process", f[state])
	}
	var err error
	if st.parent, err = strconv.Atoi(string(f[parent])); err != nil {
		return procStat{}, fmt.Errorf("parent: %w", err)
	}
	for _, v := range f[utime:cstimeTo] {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("CPU time: %w", err)
		}
		st.ticks += n
	}
	return st, nil
}
