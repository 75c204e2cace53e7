package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// footprint is the memory of a client, KiB.
type footprint struct {
	resident, data int // VmRSS and VmData of proc_pid_status(5)
	heap           int // what Go has taken from the system for its heap and the stacks in it
	released       int // of that, given back or not used yet
}

func (f footprint) String() string {
	return fmt.Sprintf("%d KiB resident, %d KiB of address space, %d KiB of heap, %d KiB of it given back", f.resident, f.data, f.heap, f.released)
}

func (f footprint) max(g footprint) footprint {
	return footprint{max(f.resident, g.resident), max(f.data, g.data), max(f.heap, g.heap), max(f.released, g.released)}
}

// slackKiB is what stacks of threads may take: Go starts one when it has need of
// it, and nobody can tell it not to. Who asks the client for all that it answers has it
// need two (1,104 KiB more were seen).
const slackKiB = 2048

// grewFrom reports whether a client has more memory than it had. Of the heap
// not one page more is allowed: it would have to come from a kernel that has
// none and waits for this client to make some.
func (f footprint) grewFrom(before footprint) bool {
	return f.resident > before.resident+slackKiB || f.data > before.data+slackKiB || f.heap > before.heap
}

// footprint asks the kernel and the client.
func (c *cluster) footprint(ctx context.Context) (footprint, error) {
	var f footprint
	for name, into := range map[string]*int{"VmRSS": &f.resident, "VmData": &f.data} {
		var err error
		if *into, err = statusKiB(c.attach.cmd.Process.Pid, name); err != nil {
			return f, err
		}
	}
	text, err := fetch(ctx, admin+"/metrics")
	if err != nil {
		return f, err
	}
	// Stacks are cut from the heap and given back to it: only the sum says
	// whether anything was taken from the kernel.
	for name, into := range map[string]*int{
		"go_memstats_heap_sys_bytes ": &f.heap, "go_memstats_stack_inuse_bytes ": &f.heap, "go_memstats_heap_released_bytes ": &f.released,
	} {
		v, err := field(string(text), name)
		if err != nil {
			return f, fmt.Errorf("the client's heap: %w", err)
		}
		n, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return f, fmt.Errorf("the client's heap: %w", err)
		}
		*into += int(n) >> 10
	}
	return f, nil
}

// statusKiB is a size of proc_pid_status(5).
func statusKiB(pid int, name string) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("the memory of process %d: %w", pid, err)
	}
	v, err := field(string(b), name+":")
	if err != nil {
		return 0, fmt.Errorf("the memory of process %d: %w", pid, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(v, "kB")))
	if err != nil {
		return 0, fmt.Errorf("the memory of process %d: %w", pid, err)
	}
	return n, nil
}

var errNoLine = errors.New("no such line")

// field is what stands behind a name at the beginning of a line.
func field(text, name string) (string, error) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("%w: %q", errNoLine, name)
}
