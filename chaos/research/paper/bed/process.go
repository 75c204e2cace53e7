package bed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a server that runs beside the workload, outside of its limit.
type process struct {
	name string
	cmd  *exec.Cmd
	end  chan error  // gets its end, once
	told atomic.Bool // that it may end
}

// start starts a process. What it says goes to NAME.log.
func (b *Bed) start(name string, argv ...string) (*process, error) {
	log, err := os.Create(filepath.Join(b.Dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(argv[0], argv[1:]...), end: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", name, err), log.Close())
	}
	if err := log.Close(); err != nil {
		return nil, err
	}
	// Servers are the last that the kernel may kill for want of memory.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid), []byte("-1000"), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", name, err), p.cmd.Process.Kill())
	}
	go func() {
		err := p.cmd.Wait()
		if !p.told.Load() {
			// Who waits for a device of this process may wait for ever, and say nothing.
			b.log("%s has ended by itself: %v\n%s", name, err, b.logs())
		}
		p.end <- err
	}()
	return p, nil
}

// stop ends the process in order, within a minute.
func (p *process) stop() error {
	p.told.Store(true)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", p.name, err)
	}
	select {
	case err := <-p.end:
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
			return nil // by the signal: some servers have no other end
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("%s does not end: %w", p.name, p.cmd.Process.Kill())
	}
}

// kill ends the process at once. It is for servers whose memory nobody needs
// any more.
func (p *process) kill() error {
	p.told.Store(true)
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	<-p.end
	return nil
}

// ready waits until something listens at an address, or the process has ended.
func (p *process) ready(ctx context.Context, network, address string) error {
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			return c.Close()
		}
		select {
		case err := <-p.end:
			p.end <- err // for stop
			return fmt.Errorf("%s has ended: %v", p.name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen at %s: %w", p.name, address, err)
		case <-time.After(50 * time.Millisecond): // asks again; nothing tells
		}
	}
}

// attached waits until the NBD device at path is served, or the process has
// ended.
func (p *process) attached(ctx context.Context, path string) error {
	for {
		on, err := connected(path)
		if on || err != nil {
			return err
		}
		select {
		case err := <-p.end:
			p.end <- err // for stop
			return fmt.Errorf("%s has ended: %v", p.name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not make %s a device: %w", p.name, path, ctx.Err())
		case <-time.After(50 * time.Millisecond): // asks again; nothing tells
		}
	}
}

// run runs a program to its end.
func run(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", argv, err, bytes.TrimSpace(out))
	}
	return nil
}
