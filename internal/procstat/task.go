package procstat

import (
	"bytes"
	"fmt"
	"strconv"
)

// Task is a process or thread.
type Task struct {
	ID       int
	Name     string // of at most 15 bytes, which may be any
	State    byte   // 'R' runs or could, 'S' sleeps, 'D' waits for a device, ...
	Flags    uint64 // PF_* of include/linux/sched.h
	User     uint64 // time in its own code, in clock ticks of 10 ms
	System   uint64 // time in the kernel for it, likewise
	CPU      int    // processor that it was last on
	Priority int    // real-time priority, 1 to 99; 0: it has none
	Policy   int    // of sched(7), as unix.SCHED_RR
}

// Places of the fields after the name. The manual numbers them from 3 on.
const (
	fieldState    = 0
	fieldFlags    = 9 - 3
	fieldUser     = 14 - 3
	fieldSystem   = 15 - 3
	fieldCPU      = 39 - 3
	fieldPriority = 40 - 3
	fieldPolicy   = 41 - 3
)

// Parse reads a stat file.
func Parse(b []byte) (Task, error) {
	// The name is in parentheses and may have anything in it, parentheses too.
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return Task{}, fmt.Errorf("no name in the stat %q", b)
	}
	f := bytes.Fields(b[to+1:])
	if len(f) <= fieldPolicy {
		return Task{}, fmt.Errorf("%d fields in the stat %q", len(f), b)
	}
	t := Task{Name: string(b[from+1 : to]), State: f[fieldState][0]}
	var err error
	number := func(what string, b []byte) uint64 {
		n, bad := strconv.ParseUint(string(b), 10, 64)
		if bad != nil && err == nil {
			err = fmt.Errorf("%s in a stat: %w", what, bad)
		}
		return n
	}
	t.ID = int(number("process id", bytes.TrimSpace(b[:from])))
	t.Flags = number("flags", f[fieldFlags])
	t.User = number("user time", f[fieldUser])
	t.System = number("system time", f[fieldSystem])
	t.CPU = int(number("processor", f[fieldCPU]))
	t.Priority = int(number("priority", f[fieldPriority]))
	t.Policy = int(number("policy", f[fieldPolicy]))
	return t, err
}
