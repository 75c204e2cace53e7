package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Program is QEMU for x86-64, of the Debian package qemu-system-x86.
const Program = "qemu-system-x86_64"

// ExitPort is the I/O port to which a guest writes its exit status, one byte
// of at most 127: QEMU ends with 2*status+1.
const ExitPort = 0xf4

// quiet is how long a guest whose kernel has panicked may still print.
const quiet = 2 * time.Second

// Config is a guest.
type Config struct {
	Kernel, Initrd string   // paths
	Append         string   // more of the kernel's command line
	MemoryMiB      int      // default 512
	CPUs           int      // default 2
	Disks          []string // raw images: /dev/vda, /dev/vdb, ...; changes are not kept
	// Timeout ends a guest that hangs. Default 10 minutes.
	Timeout time.Duration
	// Console gets what the guest prints, as it comes.
	Console io.Writer
}

// Outcome is how a guest ended.
type Outcome uint8

const (
	Exited   Outcome = iota // with Result.Status
	Panicked                // its kernel gave up
	Vanished                // powered off or rebooted without a status
	TimedOut                // hung, or slower than it was given time for
)

func (o Outcome) String() string {
	return [...]string{"exited", "its kernel panicked", "ended without a status", "out of time"}[o]
}

// Result is the end of a guest.
type Result struct {
	Outcome Outcome
	Status  int // of Exited
	Took    time.Duration
}

// Err is nil for a guest that exited with 0.
func (r Result) Err() error {
	switch {
	case r.Outcome != Exited:
		return fmt.Errorf("the guest: %v after %v", r.Outcome, r.Took.Round(time.Second))
	case r.Status != 0:
		return fmt.Errorf("the guest: exit status %d", r.Status)
	}
	return nil
}

// Run boots the guest and waits for its end. The error is of QEMU, not of the
// guest, or ctx's.
func Run(ctx context.Context, c Config) (Result, error) {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Minute
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, Program, c.args()...)
	w := &watcher{to: c.Console, panicked: func() { time.AfterFunc(quiet, cancel) }}
	cmd.Stdout = w
	var errs bytes.Buffer
	cmd.Stderr = &errs
	start := time.Now()
	err := cmd.Run()
	r := Result{Took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case w.sawPanic():
		r.Outcome = Panicked
	case ctx.Err() != nil:
		return r, fmt.Errorf("running a guest: %w", ctx.Err())
	case limited.Err() != nil:
		r.Outcome = TimedOut
	case err == nil:
		r.Outcome = Vanished
	case errors.As(err, &exit) && exit.ExitCode()&1 == 1 && w.printed():
		r.Status = exit.ExitCode() >> 1
	default:
		return r, fmt.Errorf("running a guest: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	return r, nil
}

// args is QEMU's command line. There is no KVM: the machines that test this
// have none that works.
func (c *Config) args() []string {
	mem, cpus := c.MemoryMiB, c.CPUs
	if mem == 0 {
		mem = 512
	}
	if cpus == 0 {
		cpus = 2
	}
	line := "console=ttyS0 quiet panic=-1 mitigations=off rootfstype=ramfs " + c.Append
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max,-la57", "-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(mem) + "M",
		"-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio",
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=0x04", ExitPort),
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", strings.TrimSpace(line),
	}
	for _, d := range c.Disks {
		args = append(args, "-drive", "file="+strings.ReplaceAll(d, ",", ",,")+",format=raw,if=virtio,snapshot=on")
	}
	return args
}

// watcher passes the console on and looks for a panic.
type watcher struct {
	to       io.Writer
	panicked func()

	mu   sync.Mutex
	tail []byte // the last bytes, in which the word may have begun
	any  bool
	seen bool
}

var panicWord = []byte("Kernel panic - not syncing")

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.any = true
	w.tail = append(w.tail, p...)
	if !w.seen && bytes.Contains(w.tail, panicWord) {
		w.seen = true
		w.panicked()
	}
	if n := len(w.tail) - len(panicWord); n > 0 {
		w.tail = append(w.tail[:0], w.tail[n:]...)
	}
	w.mu.Unlock()
	if w.to == nil {
		return len(p), nil
	}
	return w.to.Write(p)
}

func (w *watcher) sawPanic() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// printed tells a guest that ran from a QEMU that could not start it, which
// ends with 1 as a guest's status 0 does.
func (w *watcher) printed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.any
}
