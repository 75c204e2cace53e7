package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"dmps/chaos/cluster"
	"dmps/chaos/plan"
	"dmps/internal/nbdclient"
)

// Limits of a takeover, each well beyond what it takes.
const (
	takeLimit  = 20 * time.Second // until the second client serves
	yieldLimit = 20 * time.Second // until the first has ended, when it reaches everybody again
	leaveLimit = 5 * time.Second  // until the second one has given the volume back
)

// takeoverLimit is how long the end of a takeover may take.
const takeoverLimit = takeLimit + yieldLimit + leaveLimit + 10*time.Second

// second is a client that takes the volume over from the cluster's own.
type second struct {
	cmd *exec.Cmd
	nbd nbdclient.Addr
	log string
	end chan struct{} // closed when the process was waited for
}

// takeover cuts the client off, with some servers, and has another one take the
// volume. At the end the network is whole and the first client must end. Then the
// second gives the volume back, and the first is started again.
func (p *Processes) takeover(role cluster.Role, f plan.Fault) (func(context.Context) error, error) {
	whole, err := cutAll(p.net, f.Cuts(p.cfg.Plan.Servers))
	if err != nil {
		return nil, err
	}
	p.expectEnd(f.On)
	s, err := p.startSecond(role)
	if err != nil {
		whole()
		return nil, err
	}
	p.mu.Lock()
	p.second = s
	for i, d := range p.devices {
		d.replaced.Store(true)
		if i%2 == 0 {
			_ = d.Conn.Close() // who used it turns to the second client
		}
	}
	p.mu.Unlock()
	return func(ctx context.Context) error {
		err := p.yield(ctx, role, s, whole)
		p.mu.Lock()
		p.second = nil
		p.mu.Unlock()
		return errors.Join(err, s.leave(), p.endClient(role), p.restart(f.On))
	}, nil
}

// startSecond starts the client's command line with other addresses.
func (p *Processes) startSecond(role cluster.Role) (_ *second, err error) {
	dir := p.c.Dir()
	s := &second{
		nbd: nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd2.sock"), Export: p.nbd.Export},
		log: filepath.Join(dir, "logs", string(plan.Second)+".log"), end: make(chan struct{}),
	}
	var argv []string
	for i := 0; i < len(role.Argv); i++ {
		switch a := role.Argv[i]; a {
		case "--pidfile":
			i++
		case "--nbd":
			argv = append(argv, a, s.nbd.Listen())
			i++
		case "--admin":
			argv = append(argv, a, "127.0.0.1:0")
			i++
		default:
			argv = append(argv, a)
		}
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", plan.Second, err)
	}
	s.cmd = exec.Command(argv[0], append(argv[1:], "--takeover")...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := errors.Join(s.cmd.Start(), log.Close()); err != nil {
		return nil, fmt.Errorf("starting %s: %w", plan.Second, err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended is in its log
		close(s.end)
	}()
	return s, nil
}

// yield waits for the second client, makes the network whole, and waits for the end of
// the first one.
func (p *Processes) yield(ctx context.Context, role cluster.Role, s *second, whole func()) error {
	defer whole()
	mayFail := p.cfg.Plan.Bear > p.cfg.Plan.Redundancy.M
	if err := s.serves(ctx); err != nil {
		if mayFail {
			return nil
		}
		return fmt.Errorf("%s does not serve: %w; the end of its log:\n%s", plan.Second, err, cluster.Tail(s.log, 12))
	}
	whole()
	ctx, cancel := context.WithTimeout(ctx, yieldLimit)
	defer cancel()
	for !cluster.Ended(role.PID) {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the client that was replaced does not end: %w; the end of its log:\n%s", err, cluster.Tail(role.Log, 12))
		}
	}
	return nil
}

// serves waits until the client serves.
func (s *second) serves(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takeLimit)
	defer cancel()
	for {
		c, err := nbdclient.Dial(ctx, s.nbd)
		if err == nil {
			return c.Close()
		}
		select {
		case <-s.end:
			return errors.New("it ended")
		default:
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return errors.Join(serr, err)
		}
	}
}

// leave ends the second client, which gives the volume back if it can.
func (s *second) leave() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-s.end:
	case <-time.After(leaveLimit):
		_ = s.cmd.Process.Kill() // likewise
		<-s.end
	}
	if err := os.Remove(s.nbd.Address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the socket of %s: %w", plan.Second, err)
	}
	return nil
}

// endClient kills the first client if it has not ended.
func (p *Processes) endClient(role cluster.Role) error {
	if cluster.Ended(role.PID) {
		return nil
	}
	return p.c.Kill(role.ID)
}
