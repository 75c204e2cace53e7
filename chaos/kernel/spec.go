package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dmps/chaos/kernel/image"
	"dmps/chaos/kernel/vm"
)

// Spec is a guest and what it runs.
type Spec struct {
	Cache string // folder in which the kernel is kept between runs
	Meta  string // kernel package; default image.Cloud, with RDMA image.Full

	Guest    string            // path of the program guest, for this guest's /init
	Files    map[string]string // path in the guest -> path here
	Linked   map[string]string // likewise: programs, which bring their libraries
	Programs []string          // of this machine, with their libraries
	Modules  []string          // "name parameter=value ..."
	Sysctl   map[string]string // beyond DefaultSysctl
	Argv     []string
	Env      []string
	RDMA     bool // soft RoCE: a device rxe0 at RDMAAddr

	MemoryMiB int
	CPUs      int
	Disks     []string
	Append    string
	Timeout   time.Duration
	Console   io.Writer
}

// DefaultModules are those of every guest.
var DefaultModules = []string{"nbd nbds_max=4", "ublk_drv", "virtio_blk", "ext4", "dummy", "veth", "sch_netem", "sch_tbf"}

// rdmaModules are those of soft RoCE and of what programs open for it. Nothing
// loads modules on demand in a guest: crc32 is what rxe asks for by name.
var rdmaModules = []string{"crc32_generic", "rdma_rxe", "ib_uverbs", "rdma_ucm"}

// DefaultSysctl is what a machine that swaps to dmps needs (docs/swap.md).
var DefaultSysctl = map[string]string{
	"vm.min_free_kbytes":            "49152",
	"kernel.hung_task_timeout_secs": "60",
	"kernel.panic_on_oops":          "1",
	"kernel.printk":                 "7 4 1 7",
	"kernel.sched_rr_timeslice_ms":  "10",
}

// quietCgroups: accounting of sockets has the kernel patch its code when the
// first cgroup with a limit uses one, and the emulator does not bear that
// (emulatorBugs).
const quietCgroups = "cgroup.memory=nosocket"

// steadyClock keeps the kernel on the processor's counter. On a busy machine its
// watchdog finds that the emulated counter and the emulated HPET disagree by a
// millisecond, and goes over to the HPET, which costs every reader of the clock a
// system call and QEMU's big lock: a guest of Go programs then all but stands
// still, its processes spinning at real-time priority.
const steadyClock = "tsc=reliable clocksource=tsc"

// ErrNoGuest says that no guest can be run on this machine.
var ErrNoGuest = errors.New("no guest can be run here")

// tries is how often a guest is booted that the emulator broke.
const tries = 3

// emulatorBugs are what a guest's kernel says when QEMU has broken it. No
// program can bring a kernel to either.
var emulatorBugs = [][]byte{
	// An instruction was run that another CPU was just patching: the first byte
	// of a patch in progress is int3, and the emulator does not always see the end
	// of it.
	[]byte("Oops: int3"),
	// Seen with the flags register full of a pointer, after a cmpxchg16b.
	[]byte("PANIC: double fault"),
}

// Run boots the guest and waits for its end. A guest that the emulator broke is
// booted again.
func (s *Spec) Run(ctx context.Context) (vm.Result, error) {
	for n := 1; ; n++ {
		broken := &spotter{to: s.Console, words: emulatorBugs}
		r, err := s.run(ctx, broken)
		if r.Outcome != vm.Panicked || !broken.seen || n == tries {
			return r, err
		}
		fmt.Fprintln(broken, "the emulator broke the guest's kernel: once more")
	}
}

func (s *Spec) run(ctx context.Context, to io.Writer) (vm.Result, error) {
	if _, err := exec.LookPath(vm.Program); err != nil {
		return vm.Result{}, fmt.Errorf("%w: %w (Debian: qemu-system-x86)", ErrNoGuest, err)
	}
	meta := s.Meta
	switch {
	case meta != "":
	case s.RDMA:
		meta = image.Full
	default:
		meta = image.Cloud
	}
	k, err := image.Fetch(ctx, s.Cache, meta)
	if errors.Is(err, image.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrNoGuest, err)
	}
	if err != nil {
		return vm.Result{}, err
	}
	dir, err := os.MkdirTemp("", "dmps-guest-")
	if err != nil {
		return vm.Result{}, fmt.Errorf("a folder for the initrd: %w", err)
	}
	defer os.RemoveAll(dir) // a rest of it does no harm
	initrd := filepath.Join(dir, "initrd")
	if err := s.write(k, initrd); err != nil {
		if errors.Is(err, image.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", ErrNoGuest, err)
		}
		return vm.Result{}, err
	}
	console := &lastWords{to: to}
	r, err := vm.Run(ctx, vm.Config{
		Kernel: k.Image, Initrd: initrd, Append: strings.TrimSpace(GuestWord + " " + quietCgroups + " " + steadyClock + " " + s.Append),
		MemoryMiB: s.MemoryMiB, CPUs: s.CPUs, Disks: s.Disks, Timeout: s.Timeout, Console: console,
	})
	if err != nil {
		return r, err
	}
	// The status came through a port that others can write to; the last line
	// must say the same.
	if r.Outcome == vm.Exited && !console.said(r.Status) {
		return r, fmt.Errorf("the guest: exit status %d, but its last line does not say so", r.Status)
	}
	return r, nil
}

// write makes the initrd.
func (s *Spec) write(k *image.Kernel, to string) error {
	var names []string
	params := make(map[string]string)
	lines := slices.Concat(DefaultModules, s.Modules)
	if s.RDMA {
		lines = append(lines, rdmaModules...)
	}
	for _, line := range lines {
		name, p, _ := strings.Cut(line, " ")
		names = append(names, name)
		params[name] = p
	}
	mods, err := k.Modules(names...)
	if err != nil {
		return err
	}
	job := Job{Argv: s.Argv, Env: s.Env, Sysctl: make(map[string]string), RDMA: s.RDMA}
	var rd image.Initrd
	for _, m := range mods {
		job.Modules = append(job.Modules, strings.TrimSpace(m.Name+" "+params[m.Name]))
		rd.Add(path.Join(ModuleDir, m.Name+".ko"), 0o644, m.Code)
	}
	for _, set := range []map[string]string{DefaultSysctl, s.Sysctl} {
		for name, v := range set {
			job.Sysctl[name] = v
		}
	}
	if s.RDMA {
		job.Env = append(slices.Clone(job.Env), RDMAEnv+"="+RDMAAddr)
		if err := rd.AddRDMA(); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(job, "", "\t")
	if err != nil {
		return fmt.Errorf("the job: %w", err)
	}
	rd.Add(JobPath, 0o644, b)
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp", "/run", "/mnt"} {
		rd.AddDir(dir)
	}
	rd.Add("/etc/hosts", 0o644, []byte("127.0.0.1 localhost guest\n"))
	if err := rd.AddHost(InitPath, s.Guest); err != nil {
		return err
	}
	for in, here := range s.Files {
		if err := rd.AddHost(in, here); err != nil {
			return err
		}
	}
	for in, here := range s.Linked {
		if err := rd.AddLinked(in, here); err != nil {
			return err
		}
	}
	for _, p := range s.Programs {
		if err := rd.AddProgram(p); err != nil {
			return err
		}
	}
	return rd.WriteFile(to)
}

// spotted is longer than any word that is looked for.
const spotted = 64

// spotter passes the console on and looks for words.
type spotter struct {
	to    io.Writer
	words [][]byte
	tail  []byte
	seen  bool
}

func (s *spotter) Write(p []byte) (int, error) {
	s.tail = append(s.tail, p...)
	for _, w := range s.words {
		s.seen = s.seen || bytes.Contains(s.tail, w)
	}
	s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-spotted):]...)
	if s.to == nil {
		return len(p), nil
	}
	return s.to.Write(p)
}

// lastWords passes the console on and keeps its end.
type lastWords struct {
	to   io.Writer
	tail []byte
}

func (l *lastWords) Write(p []byte) (int, error) {
	l.tail = append(l.tail, p...)
	if n := len(l.tail) - 4096; n > 0 {
		l.tail = append(l.tail[:0], l.tail[n:]...)
	}
	if l.to == nil {
		return len(p), nil
	}
	return l.to.Write(p)
}

func (l *lastWords) said(status int) bool {
	return bytes.Contains(l.tail, fmt.Appendf(nil, "%s%d", LastWords, status))
}
