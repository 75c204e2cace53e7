package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"dmps/chaos/badmem"
	"dmps/chaos/cluster"
	"dmps/chaos/netfault"
	"dmps/chaos/plan"
	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/raid"
)

// ProcessesConfig says what Processes starts.
type ProcessesConfig struct {
	Bin  string // the dmps program, absolute path
	Dir  string // folder of the cluster, with logs
	Plan *plan.Plan
	Size bytesize.Size // of the volume; 0: 16 MiB
	Log  *slog.Logger  // of the cluster; nil: none
}

// Times of a cluster for chaos: shorter than usual, so that a fault of a few
// seconds may be an outage or a loss.
const (
	chaosGrace   = 2500 * time.Millisecond
	chaosSuspect = time.Second
)

// Processes is a cluster of real processes with proxies between all of them.
type Processes struct {
	cfg   ProcessesConfig
	c     *cluster.Cluster
	net   *netfault.Net
	disks map[plan.Role]*disk
	nbd   nbdclient.Addr
	size  bytesize.Size

	mu sync.Mutex
	r  *rand.Rand
	// mayEnd has the roles that somebody ended, or whose end is to be expected;
	// pids has the process that is to be there of each of the others.
	mayEnd  map[plan.Role]bool
	pids    map[plan.Role]int
	crashed []string

	second  *second // the client that has taken the volume over, while a takeover lasts
	devices []*nbdDevice
	dials   int
}

var _ Target = (*Processes)(nil)

// memoryPerServer holds the volume several times over: servers take each
// other's place.
func memoryPerServer(size bytesize.Size, g raid.Geometry, servers int) bytesize.Size {
	raw := int64(size) * int64(g.Members()) / int64(g.K)
	return bytesize.Size(4*raw/int64(servers)) + 48*bytesize.MiB
}

// StartProcesses starts the cluster of a plan. The caller closes it.
func StartProcesses(ctx context.Context, cfg ProcessesConfig) (_ *Processes, err error) {
	if cfg.Size == 0 {
		cfg.Size = 16 * bytesize.MiB
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	p := &Processes{
		cfg: cfg, size: cfg.Size, disks: map[plan.Role]*disk{}, mayEnd: map[plan.Role]bool{}, pids: map[plan.Role]int{},
		r:   rand.New(rand.NewPCG(cfg.Plan.Seed, 99)),
		nbd: nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd.sock")},
	}
	p.net = netfault.New(netfault.Owners(p.roles))
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	for i := range cfg.Plan.Meta {
		r := plan.Meta(i + 1)
		if p.disks[r], err = mountDisk(filepath.Join(dir, "disks", string(r))); err != nil {
			return nil, err
		}
	}
	c, err := cluster.Start(ctx, cluster.Config{
		Bin: cfg.Bin, Dir: dir, Meta: cfg.Plan.Meta, Servers: cfg.Plan.Servers,
		ServerMemory: memoryPerServer(cfg.Size, cfg.Plan.Redundancy, cfg.Plan.Servers), Redundancy: cfg.Plan.Redundancy,
		Size: cfg.Size, Volume: "chaos", NBD: p.nbd,
		RoleArgs:   []string{"--log-level", "info"},
		MetaArgs:   []string{"--grace", chaosGrace.String(), "--suspect-after", chaosSuspect.String()},
		ServerArgs: []string{"--allow-swappable"},
		// One holder, as on one host: a client gets the volume back from who was killed.
		ClientArgs: []string{"--allow-swappable", "--holder", "chaos"},
		Front:      func(role, address string) (string, error) { return p.net.Front("", plan.Role(role), address) },
		MetaDir:    func(id string) string { return p.disks[plan.Role(id)].dir },
		Log:        cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.c = c
	p.notePIDsLocked()
	p.mu.Unlock()
	return p, nil
}

// Name implements Target.
func (p *Processes) Name() string { return "processes" }

// Pages implements Target.
func (p *Processes) Pages() int { return int(p.size) / raid.PageSize }

// Dir is the cluster's folder.
func (p *Processes) Dir() string { return p.cfg.Dir }

// roles tells who has which process. While the cluster starts nobody is known:
// nothing is broken then either.
func (p *Processes) roles() map[int]plan.Role {
	p.mu.Lock()
	c := p.c
	p.mu.Unlock()
	if c == nil {
		return nil
	}
	f := c.File()
	m := map[int]plan.Role{}
	for _, r := range f.Roles() {
		m[r.PID] = plan.Role(r.ID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.second != nil {
		m[p.second.cmd.Process.Pid] = plan.Second
	}
	return m
}

func (p *Processes) role(r plan.Role) (cluster.Role, error) {
	f := p.c.File()
	for _, have := range f.Roles() {
		if have.ID == string(r) {
			return *have, nil
		}
	}
	return cluster.Role{}, fmt.Errorf("there is no %s", r)
}

func (p *Processes) notePIDsLocked() {
	f := p.c.File()
	for _, r := range f.Roles() {
		p.pids[plan.Role(r.ID)] = r.PID
	}
}

// Break implements Target.
func (p *Processes) Break(ctx context.Context, f plan.Fault) (mend func(context.Context) error, err error) {
	if f.Kind.OnLink() {
		undo, err := p.net.Break(f)
		if err != nil || f.Kind == plan.Reset {
			return nil, err
		}
		return func(context.Context) error { undo(); return nil }, nil
	}
	role, err := p.role(f.On)
	if err != nil {
		return nil, err
	}
	if f.Kind.Damages() {
		arena, err := badmem.Of(role.PID)
		if err != nil {
			return nil, skipped("%v", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return damage(arena, f, p.cfg.Plan.Redundancy, p.r)
	}
	switch f.Kind {
	case plan.Kill, plan.Restart:
		p.expectEnd(f.On)
		if err := p.c.Kill(role.ID); err != nil {
			return nil, err
		}
		if f.Kind == plan.Restart {
			return nil, p.restart(f.On)
		}
		return func(context.Context) error { return p.restart(f.On) }, nil
	case plan.Freeze:
		if err := syscall.Kill(role.PID, syscall.SIGSTOP); err != nil {
			return nil, fmt.Errorf("freezing %s: %w", role.ID, err)
		}
		return func(context.Context) error {
			err := syscall.Kill(role.PID, syscall.SIGCONT)
			if err != nil && !cluster.Ended(role.PID) { // one that ended is told of as such
				return fmt.Errorf("thawing %s: %w", role.ID, err)
			}
			return nil
		}, nil
	case plan.Takeover:
		return p.takeover(role, f)
	case plan.Fill:
		// A node that cannot write may end: its operator makes room and starts it again.
		p.expectEnd(f.On)
		d := p.disks[f.On]
		if err := d.fill(); err != nil {
			return nil, err
		}
		return func(context.Context) error {
			if err := d.empty(); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond) // one that is about to end has time to
			if !p.runs(f.On) {
				return p.restart(f.On)
			}
			p.expectLife(f.On)
			return nil
		}, nil
	case plan.Clock:
		back, err := jumpClock(role.PID, f.By)
		if err != nil {
			return nil, err
		}
		return func(context.Context) error { return back() }, nil
	}
	return nil, skipped("processes know no %v", f.Kind)
}

func (p *Processes) expectEnd(r plan.Role) {
	p.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mayEnd[r] = true
}

func (p *Processes) expectLife(r plan.Role) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mayEnd, r)
}

func (p *Processes) restart(r plan.Role) error {
	if err := p.c.Restart(string(r)); err != nil {
		return err
	}
	role, err := p.role(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pids[r] = role.PID
	delete(p.mayEnd, r)
	return err
}

// runs reports whether the role's process lives.
func (p *Processes) runs(r plan.Role) bool {
	role, err := p.role(r)
	return err == nil && !cluster.Ended(role.PID)
}

// look notes roles that ended by themselves.
func (p *Processes) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r, pid := range p.pids {
		if p.mayEnd[r] || !cluster.Ended(pid) {
			continue
		}
		log := ""
		if role, err := p.role(r); err == nil {
			log = cluster.Tail(role.Log, 12)
		}
		p.crashed = append(p.crashed, fmt.Sprintf("%s (process %d); the end of its log:\n%s", r, pid, log))
		p.mayEnd[r] = true // told once
	}
}

// Health implements Target.
func (p *Processes) Health(ctx context.Context) string {
	p.look()
	f := p.c.File()
	var dead []string
	for _, r := range f.Roles() {
		if cluster.Ended(r.PID) {
			dead = append(dead, r.ID+" does not run")
		}
	}
	if len(dead) > 0 {
		return strings.Join(dead, ", ")
	}
	return health(ctx, f.MetaURLs, p.cfg.Plan.Servers, p.cfg.Plan.Redundancy.M)
}

// Crashed implements Target.
func (p *Processes) Crashed() []string {
	p.look()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashed
}

// Close ends all of it.
func (p *Processes) Close() error {
	p.mu.Lock()
	c, s := p.c, p.second
	p.mu.Unlock()
	var errs []error
	if s != nil {
		errs = append(errs, s.leave())
	}
	if c != nil {
		errs = append(errs, c.Stop())
	}
	errs = append(errs, p.net.Close())
	for _, d := range p.disks {
		if d != nil {
			errs = append(errs, d.unmount())
		}
	}
	return errors.Join(errs...)
}
