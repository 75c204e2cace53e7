package harden

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine makes the files of one below a folder.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// own keeps a cgroup that does not swap, refuses one that does, and makes one for a
// process that nobody has put anywhere.
func TestOwn(t *testing.T) {
	const v2, unit = "sys/fs/cgroup/cgroup.controllers", "sys/fs/cgroup/a/b.service/memory.swap.max"
	for name, c := range map[string]struct {
		files map[string]string
		made  bool
		wrong string
	}{
		"nowhere":        {map[string]string{v2: "cpu memory\n", "proc/self/cgroup": "0::/\n"}, true, ""},
		"does not swap":  {map[string]string{v2: "memory\n", "proc/self/cgroup": "0::/a/b.service\n", unit: "0\n"}, false, ""},
		"swaps":          {map[string]string{v2: "memory\n", "proc/self/cgroup": "0::/a/b.service\n", unit: "max\n"}, false, "/a/b.service may swap"},
		"has no limit":   {map[string]string{v2: "memory\n", "proc/self/cgroup": "0::/a/b.service\n"}, false, "/a/b.service may swap"},
		"its parent":     {map[string]string{v2: "memory\n", "proc/self/cgroup": "0::/a/b.service/c\n", unit: "0\n"}, false, ""},
		"a container":    {map[string]string{v2: "memory\n", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.type": "domain\n", "sys/fs/cgroup/memory.swap.max": "max\n"}, false, "/ may swap"},
		"version 1":      {map[string]string{"proc/self/cgroup": "3:memory:/\n"}, false, "no cgroup v2"},
		"not controlled": {map[string]string{v2: "cpu\n", "proc/self/cgroup": "0::/\n"}, false, "no memory controller"},
	} {
		t.Run(name, func(t *testing.T) {
			root := machine(t, c.files)
			missing := own(root, "dmps-x")
			if c.wrong == "" && len(missing) > 0 || c.wrong != "" && (len(missing) != 1 || !strings.Contains(missing[0].Error(), c.wrong)) {
				t.Error(missing)
			}
			limit, _ := os.ReadFile(filepath.Join(root, "sys/fs/cgroup/dmps-x/memory.swap.max"))
			if made := string(limit) == "0"; made != c.made {
				t.Errorf("made: %v", made)
			}
		})
	}
}

// What was made for a process goes after it, and nothing else.
func TestForget(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, cgroups, "dmps-x")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := forget(root, "dmps-x"); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it is there")
	}
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := forget(root, "dmps-x"); err == nil {
		t.Error("what is not empty was forgotten")
	}
}
