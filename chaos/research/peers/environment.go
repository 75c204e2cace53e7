package peers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Environment is where a report comes from.
type Environment struct {
	Time      time.Time         `json:"time"` // start of the run, UTC
	CPU       string            `json:"cpu"`
	Cores     int               `json:"cores"`
	MemoryMiB int64             `json:"memory_mib"`
	Kernel    string            `json:"kernel"`
	Virtual   string            `json:"virtual"` // hypervisor, or none seen
	Go        string            `json:"go"`
	Commit    string            `json:"commit"` // with "+changes" when the tree differs
	Tools     map[string]string `json:"tools"`  // program: version
	LoadStart string            `json:"load_start"`
	LoadEnd   string            `json:"load_end"` // of 1, 5 and 15 minutes; includes the run itself
}

// ReadEnvironment collects what is known about the machine. What cannot be found
// is "unknown": a comparison is worth having without it.
func ReadEnvironment(ctx context.Context) Environment {
	e := Environment{
		Time: time.Now().UTC().Truncate(time.Second), CPU: "unknown", Virtual: "none seen", Cores: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOARCH,
		Kernel: "unknown", Commit: "unknown", Tools: map[string]string{}, LoadStart: loadAverage(),
	}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			key, value, _ := strings.Cut(sc.Text(), ":")
			switch strings.TrimSpace(key) {
			case "model name":
				e.CPU = strings.TrimSpace(value)
			case "flags":
				if strings.Contains(value+" ", " hypervisor ") {
					e.Virtual = "virtual machine"
				}
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		e.MemoryMiB = int64(si.Totalram) * int64(si.Unit) >> 20
	}
	if out, err := output(ctx, "git", "rev-parse", "--short=12", "HEAD"); err == nil {
		e.Commit = out
		if st, err := output(ctx, "git", "status", "--porcelain"); err == nil && st != "" {
			e.Commit += "+changes"
		}
	}
	for _, tool := range [][]string{{"fio", "--version"}, {"nbdkit", "--version"}, {"nbd-server", "-V"}, {"qemu-nbd", "--version"}} {
		e.Tools[tool[0]] = "absent"
		if out, err := output(ctx, tool[0], tool[1:]...); err == nil {
			first, _, _ := strings.Cut(out, "\n")
			e.Tools[tool[0]] = strings.TrimPrefix(first, "This is ")
		}
	}
	return e
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return strings.TrimSpace(string(out)), err
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}

// available is how much memory can be used without swapping, in bytes.
func available() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var kb int64
		if _, err := fmt.Sscanf(sc.Text(), "MemAvailable: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo tells no MemAvailable")
}

// scratch makes the two folders of a run, one on tmpfs, and a function that
// removes them. Unix socket paths must stay under 108 bytes, so the names are short.
func scratch() (dir, shm string, remove func() error, err error) {
	dir, err = os.MkdirTemp("", "peers-")
	if err != nil {
		return "", "", nil, err
	}
	shm, err = os.MkdirTemp("/dev/shm", "peers-")
	if err != nil {
		return "", "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Clean(shm), &st); err == nil && st.Type != unix.TMPFS_MAGIC {
		return "", "", nil, errors.Join(errors.New("/dev/shm is not a tmpfs: the peers' images would be on a disk"), os.RemoveAll(dir), os.RemoveAll(shm))
	}
	return dir, shm, func() error { return errors.Join(os.RemoveAll(dir), os.RemoveAll(shm)) }, nil
}
