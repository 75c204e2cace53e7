package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// cpuTime is what a process has had of the processors, in clock ticks of 10 ms.
type cpuTime struct {
	name         string
	user, system uint64
}

func (c cpuTime) String() string {
	return fmt.Sprintf("%s %d+%d ms", c.name, c.user*10, c.system*10)
}

// printCPU prints where the guest's processors have spent their time since it
// was booted: an emulated second is dear, and this says to what it goes.
func printCPU() error {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return fmt.Errorf("the processors' time: %w", err)
	}
	line, err := field(string(b), "cpu ")
	if err != nil {
		return fmt.Errorf("the processors' time: %w", err)
	}
	n, err := ticks(strings.Fields(line), 0, 1, 2, 3, 4, 5, 6)
	if err != nil {
		return fmt.Errorf("the processors' time: %w", err)
	}
	fmt.Printf("processors: %d ms user, %d system, %d idle, %d interrupts\n", (n[0]+n[1])*10, n[2]*10, (n[3]+n[4])*10, (n[5]+n[6])*10)
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return fmt.Errorf("the processors' time: %w", err)
	}
	var all []cpuTime
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		c, err := parseStat(string(b))
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if c.user+c.system >= 10 {
			all = append(all, c)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].user+all[i].system > all[j].user+all[j].system })
	for _, c := range all {
		fmt.Printf("  %v\n", c)
	}
	return nil
}

// parseStat reads proc_pid_stat(5). The name is in parentheses and may have
// anything in it, parentheses as well.
func parseStat(line string) (cpuTime, error) {
	from, to := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if from < 1 || to < from {
		return cpuTime{}, fmt.Errorf("no name in %q", line)
	}
	n, err := ticks(strings.Fields(line[to+1:]), 11, 12)
	if err != nil {
		return cpuTime{}, err
	}
	return cpuTime{strings.TrimSpace(line[:from]) + " " + line[from+1:to], n[0], n[1]}, nil
}

func ticks(fields []string, at ...int) ([]uint64, error) {
	var all []uint64
	for _, i := range at {
		if i >= len(fields) {
			return nil, fmt.Errorf("%d fields, not %d", len(fields), i+1)
		}
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("clock ticks: %w", err)
		}
		all = append(all, n)
	}
	return all, nil
}
