package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"dmps/internal/procstat"
)

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
	var all []procstat.Task
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		c, err := procstat.Parse(b)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if c.User+c.System >= 10 {
			all = append(all, c)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].User+all[i].System > all[j].User+all[j].System })
	for _, c := range all {
		fmt.Printf("  %s\n", times(c))
	}
	return nil
}

// times is what a process has had of the processors.
func times(t procstat.Task) string {
	return fmt.Sprintf("%d %s %d+%d ms", t.ID, t.Name, t.User*10, t.System*10)
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
