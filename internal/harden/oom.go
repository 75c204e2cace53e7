package harden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const oomFile = "/proc/self/oom_score_adj"

// lower takes the process off the OOM killer's list.
func lower(file string) []error {
	if err := os.WriteFile(file, []byte("-1000"), 0); err != nil {
		return []error{fmt.Errorf("the OOM killer may take this process (oom_score_adj): it needs CAP_SYS_RESOURCE, or OOMScoreAdjust=-1000 of its unit: %w", err)}
	}
	return nil
}

// own moves the process into a cgroup that does not swap, unless it is in one.
func own(name string) []error {
	if name == "" {
		return nil
	}
	const root = "/sys/fs/cgroup"
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return []error{fmt.Errorf("a cgroup without swap: %w", err)}
	}
	_, path, ok := strings.Cut(string(b), "0::")
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); !ok || err != nil {
		return []error{fmt.Errorf("a cgroup without swap: this machine has no cgroup v2 at %s", root)}
	}
	path, _, _ = strings.Cut(path, "\n")
	if path != "/" {
		// Somebody put it there, systemd above all, and it is theirs to say.
		limit, err := os.ReadFile(filepath.Join(root, path, "memory.swap.max"))
		if err == nil && strings.TrimSpace(string(limit)) == "0" {
			return nil
		}
		return []error{fmt.Errorf("cgroup %s may swap: MemorySwapMax=0 in the unit, or 0 in its memory.swap.max", path)}
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return []error{fmt.Errorf("a cgroup without swap: %w", err)}
	}
	for _, w := range []struct{ file, value string }{
		{filepath.Join(root, "cgroup.subtree_control"), "+memory"},
		{filepath.Join(dir, "memory.swap.max"), "0"},
		{filepath.Join(dir, "cgroup.procs"), "0"}, // the writer
	} {
		if err := os.WriteFile(w.file, []byte(w.value), 0); err != nil {
			return []error{fmt.Errorf("a cgroup without swap: %w", err)}
		}
	}
	return nil
}
