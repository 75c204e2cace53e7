package harden

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const oomFile = "/proc/self/oom_score_adj"

// lower takes the process off the OOM killer's list.
func lower(file string) []error {
	if err := os.WriteFile(file, []byte("-1000"), 0); err != nil {
		return []error{fmt.Errorf("the OOM killer may take this process (oom_score_adj): it needs CAP_SYS_RESOURCE, or OOMScoreAdjust=-1000 of its unit: %w", err)}
	}
	return nil
}

// Placement says whether own would find or make a cgroup without swap for this
// process, and nothing is changed: make is the path of one to be made below the
// root, or empty when the process is in such a one. root is the machine's "/".
// Attach and doctor decide by it.
func Placement(root fs.FS, name string) (make string, err error) {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("a cgroup without swap: %w", err)
	}
	own, ok := pathIn(b)
	have, err := fs.ReadFile(root, cgroups+"/cgroup.controllers")
	if !ok || err != nil {
		return "", fmt.Errorf("a cgroup without swap: this machine has no cgroup v2 at /%s", cgroups)
	}
	if keptOut(root, own) {
		return "", nil
	}
	// The root of the machine has no such file.
	if _, err := fs.Stat(root, cgroups+"/cgroup.type"); own != "/" || err == nil {
		// Somebody put it there, systemd above all, and it is theirs to say.
		return "", fmt.Errorf("cgroup %s may swap: MemorySwapMax=0 in the unit, or 0 in its memory.swap.max", own)
	}
	if !slices.Contains(strings.Fields(string(have)), "memory") {
		return "", errors.New("a cgroup without swap: the kernel has no memory controller (cgroup_disable=memory)")
	}
	return path.Join(cgroups, name), nil
}

// KeptOut reports whether a process is in a cgroup that does not swap. pid may be
// "self".
func KeptOut(root fs.FS, pid string) bool {
	b, err := fs.ReadFile(root, path.Join("proc", pid, "cgroup"))
	own, ok := pathIn(b)
	return err == nil && ok && keptOut(root, own)
}

const cgroups = "sys/fs/cgroup"

// pathIn is the path of version 2 in a file /proc/PID/cgroup.
func pathIn(b []byte) (string, bool) {
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path.Clean("/" + p), true
		}
	}
	return "", false
}

// keptOut: the limit of a parent is one of its children. The "/" of a cgroup
// namespace has one, that of the machine does not.
func keptOut(root fs.FS, own string) bool {
	for {
		limit, err := fs.ReadFile(root, path.Join(cgroups, own, "memory.swap.max"))
		if err == nil && strings.TrimSpace(string(limit)) == "0" {
			return true
		}
		if own == "/" {
			return false
		}
		own = path.Dir(own)
	}
}

// own moves the process into a cgroup that does not swap, unless it is in one.
// root is "/".
func own(root, name string) []error {
	if name == "" {
		return nil
	}
	dir, err := Placement(os.DirFS(root), name)
	if err != nil {
		return []error{err}
	}
	if dir == "" {
		return nil
	}
	dir = filepath.Join(root, dir)
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return []error{fmt.Errorf("a cgroup without swap: %w", err)}
	}
	for _, w := range []struct{ file, value string }{
		{filepath.Join(root, cgroups, "cgroup.subtree_control"), "+memory"},
		{filepath.Join(dir, "memory.swap.max"), "0"},
		{filepath.Join(dir, "cgroup.procs"), "0"}, // the writer
	} {
		if err := os.WriteFile(w.file, []byte(w.value), 0o644); err != nil {
			return []error{fmt.Errorf("a cgroup without swap: %w", err)}
		}
	}
	return nil
}

// Forget removes the cgroup that Self made below the root for a process that has
// ended. One that was not made, or has processes still, stays as it is.
func Forget(name string) error { return forget("/", name) }

func forget(root, name string) error {
	err := os.Remove(filepath.Join(root, cgroups, name))
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return fmt.Errorf("the cgroup of a process that has ended: %w", err)
}
