package paper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Limit is a control group (version 2) with little memory, for the processes of
// one workload. They may swap as much as there is.
type Limit struct {
	dir *os.File
}

// NewLimit makes the control group name below root, a cgroup2 mount whose
// memory controller is on. Its processes may have memory bytes together; 0 is
// no limit.
func NewLimit(root, name string, memory int64) (*Limit, error) {
	path := filepath.Join(root, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	max := "max"
	if memory > 0 {
		max = strconv.FormatInt(memory, 10)
	}
	if err := os.WriteFile(filepath.Join(path, "memory.max"), []byte(max), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("control group: limiting memory: %w", err), os.Remove(path))
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control group: %w", err), os.Remove(path))
	}
	return &Limit{dir: dir}, nil
}

// Into makes a process that is started with a be born in the group.
func (l *Limit) Into(a *syscall.SysProcAttr) *syscall.SysProcAttr {
	if a == nil {
		a = &syscall.SysProcAttr{}
	}
	a.UseCgroupFD, a.CgroupFD = true, int(l.dir.Fd())
	return a
}

// Peaks are the most bytes that the group ever had in memory, and on swap
// devices, so far.
func (l *Limit) Peaks() (memory, swap int64, err error) {
	memory, err = l.number("memory.peak")
	if err != nil {
		return 0, 0, err
	}
	swap, err = l.number("memory.swap.peak")
	return memory, swap, err
}

func (l *Limit) number(file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(l.dir.Name(), file))
	if err != nil {
		return 0, fmt.Errorf("control group: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("control group: %s: %w", file, err)
	}
	return n, nil
}

// Close removes the group, whose processes must have ended.
func (l *Limit) Close() error {
	return errors.Join(l.dir.Close(), os.Remove(l.dir.Name()))
}
