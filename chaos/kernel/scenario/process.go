package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Guest is the machine that a scenario has to itself.
type Guest struct {
	Duration time.Duration // for scenarios that go on for a while; 0: short
	Seed     uint64

	kmsg *kmsg
	mu   sync.Mutex
	all  []*process
}

const logDir = "/run/log"

// process is a program that runs until somebody ends it.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	from int64         // where its part of the log begins
	over chan struct{} // closed when it has ended
	err  error         // after over
}

// start runs a program, in the cgroup unless that is "".
func (g *Guest) start(name, cgroup string, argv ...string) (*process, error) {
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, log: filepath.Join(logDir, name+".log"), over: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer out.Close() // the process has its own
	if p.from, err = out.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			return nil, fmt.Errorf("starting %s: %w", name, err)
		}
		defer dir.Close() // read only
		p.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.over)
	}()
	g.mu.Lock()
	g.all = append(g.all, p)
	g.mu.Unlock()
	return p, nil
}

// signal sends a signal, and for SIGKILL waits for the end.
func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%v to %s: %w", s, p.name, err)
	}
	if s == syscall.SIGKILL {
		<-p.over
	}
	return nil
}

// wait waits for the end of a process and gives its error.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.over:
		if p.err != nil {
			return fmt.Errorf("%s: %w: %s", p.name, p.err, p.tail(1000))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", p.name, ctx.Err())
	}
}

// alive is nil while a process runs.
func (p *process) alive() error {
	select {
	case <-p.over:
		return fmt.Errorf("%s has ended: %w: %s", p.name, errors.Join(p.err, os.ErrProcessDone), p.tail(1000))
	default:
		return nil
	}
}

// said reports whether a process has logged something, since it was started.
func (p *process) said(what string) bool {
	b, err := os.ReadFile(p.log)
	return err == nil && bytes.Contains(b[min(p.from, int64(len(b))):], []byte(what))
}

// tail is the end of what a process has logged.
func (p *process) tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b[max(0, len(b)-n):]))
}

// Dump prints what there is to see after a failure: memory, the kernel's stacks
// of tasks that wait, and the ends of all logs, the client's with the stacks of
// its goroutines.
func (g *Guest) Dump() {
	g.mu.Lock()
	defer g.mu.Unlock()
	dumpThreads()
	for _, file := range []string{"/proc/meminfo", "/proc/swaps"} {
		b, err := os.ReadFile(file)
		fmt.Printf("--- %s (%v)\n%s\n", file, err, b)
	}
	shown := make(map[string]bool) // logs: a program that was started again goes on with its own
	for _, p := range slices.Backward(g.all) {
		if shown[p.log] {
			continue
		}
		shown[p.log] = true
		tail := 2500
		if p.name == "attach" && p.alive() == nil {
			tail = 40000
			if err := p.signal(syscall.SIGQUIT); err != nil {
				fmt.Println(err)
			}
			select {
			case <-p.over:
			case <-time.After(5 * time.Second): // it hangs in the kernel
				stacks(p.cmd.Process.Pid)
			}
		}
		fmt.Printf("--- %s\n%s\n", p.name, p.tail(tail))
	}
	// w: tasks that wait in the kernel, with their stacks, to the console.
	sysrq("w")
}

// stacks prints where the threads of a process are in the kernel.
func stacks(pid int) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stack", pid))
	if err != nil {
		fmt.Println(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil { // or the thread has ended
			fmt.Printf("%s:\n%s", f, b)
		}
	}
}

// output runs a program to its end.
func output(ctx context.Context, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out, nil
}

// until calls f until it returns nil, for at most limit.
func until(ctx context.Context, limit time.Duration, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s, not within %v: %w", what, limit, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
