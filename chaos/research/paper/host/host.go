package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"dmps/chaos/kernel"
	"dmps/chaos/research/paper"
)

// Host measures figures in guests.
type Host struct {
	Dmps   string    // the program dmps, static
	Cache  string    // folder in which the guest's kernel is kept
	Data   string    // folder for what was measured
	Device string    // only this one is measured; "" for all
	Quick  bool      // sizes and times are cut down
	Out    io.Writer // gets progress, and what the guests say

	build string // folder with the programs of the guest
}

// ErrMissing: a program that the figures need is not on this machine; the text
// says which Debian package has it.
var ErrMissing = errors.New("missing on this machine")

// programs come from this machine, with the Debian package that has each.
var programs = map[string]string{
	"nbdkit": "nbdkit", "sort": "coreutils", "sqlite3": "sqlite3", "mkfs.ext4": "e2fsprogs", "ip": "iproute2", "tc": "iproute2",
}

// plugin is what nbdkit serves memory with. It is where nbdkit looks for it.
const plugin = "plugins/nbdkit-memory-plugin.so"

// Limits of a guest.
const (
	memoryMiB = 3584 // two mirrored servers of 576 MiB and their spare rows, and a few hundred for all else
	diskBytes = 2 << 30
)

// noSocket keeps control groups from counting the memory of sockets. With it
// the kernel patches the code of its network stack whenever the first control
// group comes and the last one goes; under QEMU 7.2's emulation of several CPUs
// one of them met the half-patched code and panicked ("Oops: int3" in
// sk_forced_mem_schedule).
const noSocket = "cgroup.memory=nosocket"

// Prepare builds what the guests run, into a folder that Close removes.
func (h *Host) Prepare(ctx context.Context) (err error) {
	for name, deb := range programs {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w: %s (Debian: %s)", ErrMissing, name, deb)
		}
	}
	if _, err := h.cc1(ctx); err != nil {
		return err
	}
	if h.build, err = os.MkdirTemp("", "paper-"); err != nil {
		return err
	}
	for pkg, module := range map[string]string{"dmps/chaos/kernel/guest": ".", "dmps/chaos/research/paper/cmd/measure": "chaos/research"} {
		if _, err := kernel.BuildIn(ctx, h.build, module, pkg); err != nil {
			return errors.Join(err, h.Close())
		}
	}
	disk, err := os.Create(filepath.Join(h.build, "disk"))
	if err != nil {
		return errors.Join(err, h.Close())
	}
	return errors.Join(disk.Truncate(diskBytes), disk.Close())
}

// Close removes what Prepare made.
func (h *Host) Close() error { return os.RemoveAll(h.build) }

// cc1 is where GCC has its compiler proper.
func (h *Host) cc1(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "gcc", "-print-prog-name=cc1").Output()
	path := strings.TrimSpace(string(out))
	if err == nil {
		_, err = exec.LookPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: cc1 (Debian: gcc): %w", ErrMissing, err)
	}
	return path, nil
}

func (h *Host) plugin(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "nbdkit", "--dump-config").Output()
	if err != nil {
		return "", fmt.Errorf("asking nbdkit where its plugins are: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "plugindir="); ok {
			return filepath.Join(dir, filepath.Base(plugin)), nil
		}
	}
	return "", errors.New("nbdkit does not say where its plugins are")
}

// Measure boots a guest, measures one figure and saves it.
func (h *Host) Measure(ctx context.Context, figure string, limit time.Duration) error {
	cc1, err := h.cc1(ctx)
	if err != nil {
		return err
	}
	memory, err := h.plugin(ctx)
	if err != nil {
		return err
	}
	argv := []string{"/bin/measure", "figure", figure}
	quick := ""
	if h.Quick {
		quick = "1"
	}
	c := paper.NewConsole(figure, h.Quick, h.Out)
	s := kernel.Spec{
		Cache: h.Cache, Guest: filepath.Join(h.build, "guest"),
		Files:     map[string]string{"/bin/measure": filepath.Join(h.build, "measure"), "/bin/dmps": h.Dmps, memory: memory},
		Programs:  []string{cc1},
		Argv:      argv,
		Env:       []string{"PAPER_DMPS=/bin/dmps", "PAPER_CC1=/bin/cc1", "PAPER_DISK=/dev/vda", "PAPER_QUICK=" + quick, "PAPER_DEVICE=" + h.Device},
		Append:    noSocket,
		MemoryMiB: memoryMiB, CPUs: 2, Disks: []string{filepath.Join(h.build, "disk")}, Timeout: limit, Console: c,
	}
	for name := range programs {
		s.Programs = append(s.Programs, name)
	}
	r, err := s.Run(ctx)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return fmt.Errorf("figure %s: %w", figure, err)
	}
	data, err := c.Result(Commit(ctx))
	if err != nil {
		return fmt.Errorf("figure %s: %w", figure, err)
	}
	return data.Save(h.Data)
}

// Commit is what the tree is, "+changes" when it differs; "unknown" without git.
func Commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--abbrev=12", "--dirty=+changes").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
