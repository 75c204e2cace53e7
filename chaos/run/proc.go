package run

import (
	"bytes"
	"fmt"
	"os"
)

// stateOf is the state of a process, such as R, S, T or Z.
func stateOf(pid int) (byte, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// After the name in parentheses, which may hold anything.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 >= len(b) {
		return 0, fmt.Errorf("process %d: stat is %q", pid, b)
	}
	return b[i+2], nil
}
