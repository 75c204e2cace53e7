package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// StopGrace is how long Process.Stop waits after SIGTERM before it kills.
const StopGrace = 10 * time.Second

// Spec says what to start.
type Spec struct {
	Name string   // for messages and logs
	Argv []string // program and arguments; the program is looked up in PATH
	Env  []string // added to the environment of this process
	Dir  string   // working directory, empty: this one's
	Log  string   // file that standard output and error are appended to
}

// Process is a child of this process. The kernel sends it SIGTERM when this
// process dies, however that happens. Safe for concurrent use.
type Process struct {
	Name string
	Log  string // path of its log

	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read after done
}

// Start starts a process in a process group of its own, so that a Ctrl-C at
// the terminal reaches this process only, which then stops its children in order.
func Start(s Spec) (*Process, error) {
	if len(s.Argv) == 0 {
		return nil, fmt.Errorf("start %s: no command", s.Name)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: log: %w", s.Name, err)
	}
	defer log.Close() // the child has its own copy
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	p := &Process{Name: s.Name, Log: s.Log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID of the process; it stays the same after its death.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited says how the process ended. Call it after Done is closed.
func (p *Process) Exited() string {
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

// ExitCode is the exit code of a process that is done; -1: a signal ended it.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal; a process that is gone already is not an error.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Stop ends the process: SIGTERM, then SIGKILL after StopGrace, and waits for
// its end. A process that had to be killed is an error.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(StopGrace):
	}
	// Frozen processes do not see SIGTERM; SIGKILL reaches them all the same.
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return fmt.Errorf("%s did not end within %v of SIGTERM and was killed", p.Name, StopGrace)
}

// WaitFor polls ready until it returns nil. It gives up when the process
// ends or the context does, and then tells the last reason and the end of the log.
func (p *Process) WaitFor(ctx context.Context, ready func() error) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready (%s):\n%s", p.Name, p.Exited(), Tail(p.Log, 20))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w): %w\n%s", p.Name, ctx.Err(), err, Tail(p.Log, 20))
		case <-t.C:
		}
	}
}

// Tail gives the last n lines of a file, each indented, or why it cannot.
func Tail(path string, n int) string {
	const window = 64 << 10 // more than n lines of any log here
	f, err := os.Open(path)
	if err != nil {
		return "\t(no log: " + err.Error() + ")"
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "\t(no log: " + err.Error() + ")"
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-window), window))
	if err != nil {
		return "\t(no log: " + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "\t" + strings.Join(lines, "\n\t")
}
