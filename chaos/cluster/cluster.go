package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"dmps/internal/exitcode"
	"dmps/internal/nbdclient"
)

// Cluster is a running cluster. Its methods may be called from any goroutine.
type Cluster struct {
	cfg   Config
	dir   *folder
	nbd   nbdclient.Addr // set by start
	ports ports

	mu struct {
		sync.Mutex
		file     File
		children []*child
	}
	stopWatch chan struct{}
	watching  sync.WaitGroup
	stopOnce  sync.Once
	stopErr   error
}

// Grace of Stop before a role is killed. A client gives its lease back, a
// server has nothing to save, a metadata node closes its files.
const (
	clientGrace = 3 * time.Second
	serverGrace = time.Second
	metaGrace   = 2 * time.Second
)

// portAttempts is how often Start begins anew because a program that listens at
// ports of its own choice has taken one that was kept for a role.
const portAttempts = 3

// Start starts a cluster and returns when it serves. Errors: ErrBusy,
// ErrLeftovers, and whatever keeps a role from starting, with the end of its
// log. After an error nothing of the cluster is left running.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	dir, err := takeFolder(cfg.Dir, cfg.Force)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		c := &Cluster{cfg: cfg, dir: dir, stopWatch: make(chan struct{})}
		err := c.start(ctx)
		if err == nil {
			c.watching.Go(c.watch)
			return c, nil
		}
		err = errors.Join(err, c.killChildren(), c.ports.release())
		var exit *exitError
		again := errors.As(err, &exit) && exit.code == exitcode.CannotListen &&
			(exit.role != clientID || cfg.anyNBDPort())
		if !again || attempt == portAttempts {
			return nil, errors.Join(err, dir.release())
		}
		cfg.Log.Warn("a port was taken meanwhile, trying others", "role", exit.role)
		if err := dir.reset(); err != nil {
			return nil, errors.Join(err, dir.release())
		}
	}
}

func (c *Cluster) start(ctx context.Context) error {
	file, nbd, err := c.cfg.plan(c.dir, &c.ports)
	if err != nil {
		return err
	}
	c.mu.file, c.nbd = file, nbd
	f := &c.mu.file // nobody else knows of c yet
	c.cfg.Progress(fmt.Sprintf("starting %d metadata nodes and %d memory servers", c.cfg.Meta, c.cfg.Servers))
	for _, r := range f.Roles() {
		if r.ID == clientID {
			continue
		}
		if err := c.launch(r); err != nil {
			return err
		}
	}
	if err := c.createVolume(ctx, f); err != nil {
		return err
	}
	c.cfg.Progress("attaching the volume")
	if err := c.launch(&f.Client); err != nil {
		return err
	}
	if err := c.waitNBD(ctx); err != nil {
		return err
	}
	return f.write(c.dir.path)
}

func (c *Cluster) launch(r *Role) error {
	ch, err := start(r)
	if err != nil {
		return err
	}
	c.mu.children = append(c.mu.children, ch)
	r.PID, r.Running = ch.cmd.Process.Pid, true
	c.cfg.Log.Debug("started", "role", r.ID, "pid", r.PID)
	return nil
}

// File is the present content of cluster.json.
func (c *Cluster) File() File {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.mu.file
	f.Meta, f.Servers = slices.Clone(f.Meta), slices.Clone(f.Servers)
	return f
}

// Dir is the cluster's folder, an absolute path.
func (c *Cluster) Dir() string { return c.dir.path }

// Kill sends SIGKILL to a role and returns when its process is gone.
func (c *Cluster) Kill(id string) error {
	pid, alive := pidOf(c.dir.pidFile(id))
	if !alive {
		pid, alive = c.startingPID(id)
	}
	if !alive {
		return fmt.Errorf("cluster: kill %s: it is not running", id)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("cluster: kill %s (pid %d): %w", id, pid, err)
	}
	// Its memory goes first, its locks and sockets after.
	for deadline := time.Now().Add(killGrace); !Ended(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("cluster: kill %s (pid %d): it survives", id, pid)
		}
	}
	return nil
}

// Restart starts a role that is not running by its command line.
func (c *Cluster) Restart(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.mu.file.Roles() {
		if r.ID != id {
			continue
		}
		if _, alive := pidOf(c.dir.pidFile(id)); alive || c.starting(r) {
			return fmt.Errorf("cluster: restart %s: it runs already", id)
		}
		if err := c.launch(r); err != nil {
			return err
		}
		return c.mu.file.write(c.dir.path)
	}
	return fmt.Errorf("cluster: restart %s: no such role", id)
}

// watchEvery is how often the roles are looked at. It costs three small reads
// in /proc a role.
const watchEvery = 200 * time.Millisecond

// watch keeps cluster.json true until Stop.
func (c *Cluster) watch() {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-c.stopWatch:
			return
		case <-t.C:
			c.look()
		}
	}
}

// look compares the roles with their pid files once.
func (c *Cluster) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for _, r := range c.mu.file.Roles() {
		pid, alive := pidOf(c.dir.pidFile(r.ID))
		switch {
		case alive && (!r.Running || pid != r.PID):
			c.cfg.Log.Info("role runs again", "role", r.ID, "pid", pid)
			r.PID, r.Running = pid, true
			changed = true
		case !alive && r.Running && !c.starting(r):
			c.cfg.Log.Warn("role ended; its argv in cluster.json starts it again", "role", r.ID, "pid", r.PID, "log", r.Log)
			r.Running = false
			changed = true
		}
	}
	if !changed {
		return
	}
	if err := c.mu.file.write(c.dir.path); err != nil {
		c.cfg.Log.Error("cluster.json is out of date", "error", err)
	}
}

// starting reports whether the role's last process is a living child of ours
// that has not written its pid file yet.
func (c *Cluster) starting(r *Role) bool {
	for _, ch := range c.mu.children {
		// One that was just killed may not have been waited for yet: a zombie.
		if ch.cmd.Process.Pid == r.PID && ch.ended() == nil && !isZombie(r.PID) {
			return true
		}
	}
	return false
}

// startingPID is the process of a role that starts and has no pid file yet.
func (c *Cluster) startingPID(id string) (pid int, starting bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.mu.file.Roles() {
		if r.ID == id {
			return r.PID, c.starting(r)
		}
	}
	return 0, false
}

// Stop ends every role, also those that others started again and those that
// are frozen, and removes cluster.json and the NBD socket. It returns within
// some seconds, whatever state the roles are in. Another Stop gives the same
// answer.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() { c.stopErr = c.stop() })
	return c.stopErr
}

func (c *Cluster) stop() error {
	close(c.stopWatch)
	c.watching.Wait()
	// First of all nobody may believe that it serves.
	errs := []error{removeIfThere(filepath.Join(c.dir.path, FileName))}
	file := c.File()
	// A frozen role would see SIGTERM only when it goes on, and the client
	// would wait for frozen servers.
	for _, r := range file.Roles() {
		errs = append(errs, c.signal(r.ID, syscall.SIGCONT))
	}
	errs = append(errs,
		c.end([]Role{file.Client}, clientGrace),
		c.end(file.Servers, serverGrace),
		c.end(file.Meta, metaGrace),
		c.killChildren(), c.ports.release())
	if c.nbd.Network == "unix" {
		errs = append(errs, removeIfThere(c.nbd.Address))
	}
	return errors.Join(append(errs, c.dir.release())...)
}

// signal sends sig to the process that is the role now, if there is one.
func (c *Cluster) signal(id string, sig syscall.Signal) error {
	pid, alive := pidOf(c.dir.pidFile(id))
	if !alive {
		return nil
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cluster: %v to %s (pid %d): %w", sig, id, pid, err)
	}
	return nil
}

// end asks roles to end, and kills those that have not within grace.
func (c *Cluster) end(roles []Role, grace time.Duration) error {
	var errs []error
	for _, r := range roles {
		errs = append(errs, c.signal(r.ID, syscall.SIGTERM))
	}
	deadline := time.Now().Add(grace)
	for _, r := range roles {
		file := c.dir.pidFile(r.ID)
		if goneWithin(file, time.Until(deadline)) {
			continue
		}
		c.cfg.Log.Warn("role does not end, killing it", "role", r.ID)
		errs = append(errs, c.signal(r.ID, syscall.SIGKILL))
		if !goneWithin(file, killGrace) {
			errs = append(errs, fmt.Errorf("cluster: %s survives SIGKILL", r.ID))
		}
	}
	return errors.Join(errs...)
}

// killChildren ends what this process has started and still runs, whether it
// has a pid file or not, and waits for all of it.
func (c *Cluster) killChildren() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, ch := range c.mu.children {
		errs = append(errs, ch.kill())
	}
	return errors.Join(errs...)
}
