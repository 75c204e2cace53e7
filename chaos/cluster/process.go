package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// child is a role's process that this process started. Roles that others
// started again are known by their pid files only.
type child struct {
	role   string
	log    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process was waited for
}

// start runs argv in a process group of its own, so that Ctrl-C at a terminal
// reaches only this process, which then ends the roles in order.
func start(r *Role) (*child, error) {
	log, err := os.OpenFile(r.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cluster: log of %s: %w", r.ID, err)
	}
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	if err := errors.Join(err, log.Close()); err != nil {
		return nil, fmt.Errorf("cluster: starting %s: %w", r.ID, err)
	}
	c := &child{role: r.ID, log: r.Log, cmd: cmd, exited: make(chan struct{})}
	go func() {
		// How it ended is read from cmd.ProcessState.
		_ = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// exitError is a role that ended while the cluster was starting.
type exitError struct {
	role string
	code int // exit code; -1: a signal
	how  string
	tail string // end of its log
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s ended before the cluster served (%s); the end of its log:\n%s", e.role, e.how, e.tail)
}

// ended says how the process ended, or nil while it runs.
func (c *child) ended() *exitError {
	select {
	case <-c.exited:
		return &exitError{role: c.role, code: c.cmd.ProcessState.ExitCode(), how: c.cmd.ProcessState.String(), tail: Tail(c.log, 20)}
	default:
		return nil
	}
}

// kill ends the process and waits for it.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cluster: ending %s: %w", c.role, err)
	}
	<-c.exited
	return nil
}

// Tail is the end of a log, each of its last n lines indented, for messages.
// What keeps it from being read is told in its place.
func Tail(path string, n int) string {
	b, err := tail(path, n)
	if err != nil {
		return "  (no log: " + err.Error() + ")"
	}
	return b
}

func tail(path string, n int) (_ string, err error) {
	const most = 64 << 10 // bytes that are looked at
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-most), most))
	if err != nil {
		return "", err
	}
	lines := strings.Split(string(bytes.TrimRight(b, "\n")), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  "), nil
}

// Ended reports whether a process has ended and let go of all that it had, be it
// that nobody has waited for it yet.
func Ended(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
	}
	// The state comes after the name in parentheses, which may hold anything. The
	// first thread of a process may be gone long before the last one.
	i := bytes.LastIndexByte(b, ')')
	if i+2 >= len(b) || b[i+2] != 'Z' && b[i+2] != 'X' {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err != nil || len(threads) <= 1
}
