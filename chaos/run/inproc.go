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
	"time"

	"dmps/chaos/badmem"
	"dmps/chaos/netfault"
	"dmps/chaos/plan"
	"dmps/client"
	"dmps/internal/bytesize"
	"dmps/internal/port"
	"dmps/meta"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/tcp"
)

// InProcessConfig says what InProcess starts.
type InProcessConfig struct {
	Dir  string // for the metadata nodes' state
	Plan *plan.Plan
	Size bytesize.Size // of the volume; 0: 4 MiB
	Log  *slog.Logger  // of all roles; nil: none
}

// InProcess is a cluster within this process: the same servers, metadata nodes
// and client, over loopback sockets with proxies between them. What needs a
// process of its own is done otherwise, or skipped:
//
//   - a role that is frozen is one that nobody hears and that hears nobody;
//   - a client that is killed closes its sessions and keeps its lease;
//   - metadata nodes reach each other without proxies, and are not frozen;
//   - nobody has a clock of its own.
type InProcess struct {
	cfg   InProcessConfig
	size  bytesize.Size
	net   *netfault.Net
	disks map[plan.Role]*disk
	urls  []string     // of the metadata nodes, without proxies
	ports []*port.Held // of the metadata nodes, which start again where they were

	mu        sync.Mutex
	r         *rand.Rand
	nodes     map[plan.Role]*meta.Node
	metaCfg   map[plan.Role]meta.Config
	servers   map[plan.Role]*memoryServer
	addresses map[string]plan.Role // transport address of a server's life -> who it is
	fronts    map[string]string    // from, and that address -> its proxy
	volume    *client.Volume
	second    *client.Volume // of the client that takes the volume over, while a takeover lasts
	taking    bool           // a takeover lasts
	dials     int
	refused   error // why it could not be opened the last time
	askers    []*metaclient.Client
	crashed   []string
}

type memoryServer struct {
	*server.Server
	asker *metaclient.Client
}

var _ Target = (*InProcess)(nil)

// StartInProcess starts the cluster of a plan. The caller closes it.
func StartInProcess(ctx context.Context, cfg InProcessConfig) (_ *InProcess, err error) {
	if cfg.Size == 0 {
		cfg.Size = 4 * bytesize.MiB
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &InProcess{
		cfg: cfg, size: cfg.Size, net: netfault.New(nil), r: rand.New(rand.NewPCG(cfg.Plan.Seed, 99)),
		disks: map[plan.Role]*disk{}, nodes: map[plan.Role]*meta.Node{}, metaCfg: map[plan.Role]meta.Config{},
		servers: map[plan.Role]*memoryServer{}, addresses: map[string]plan.Role{}, fronts: map[string]string{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.startMeta(ctx); err != nil {
		return nil, err
	}
	for i := range cfg.Plan.Servers {
		if err := p.startServer(plan.Server(i + 1)); err != nil {
			return nil, err
		}
	}
	if err := p.createVolume(ctx); err != nil {
		return nil, err
	}
	return p, p.attach(ctx)
}

func (p *InProcess) startMeta(ctx context.Context) error {
	n := p.cfg.Plan.Meta
	var err error
	addr := func() string {
		held, herr := port.Hold()
		if herr != nil {
			err = errors.Join(err, herr)
			return ""
		}
		p.ports = append(p.ports, held)
		return held.At("127.0.0.1")
	}
	var join, peers []string
	for range n {
		join, peers = append(join, addr()), append(peers, addr())
		p.urls = append(p.urls, "http://"+join[len(join)-1])
	}
	if err != nil {
		return err
	}
	for i := range n {
		r := plan.Meta(i + 1)
		if p.disks[r], err = mountDisk(filepath.Join(p.cfg.Dir, string(r))); err != nil {
			return err
		}
		c := meta.Config{
			Dir: p.disks[r].dir, Name: string(r), APIListen: join[i], RaftListen: peers[i],
			SuspectAfter: chaosSuspect, Grace: chaosGrace, Logger: p.cfg.Log,
		}
		if n > 1 {
			c.Join, c.BootstrapExpect = join, n
		}
		p.metaCfg[r] = c
		if p.nodes[r], err = meta.Start(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// ask makes a metadata client of a role, through proxies.
func (p *InProcess) ask(from plan.Role) (*metaclient.Client, error) {
	var urls []string
	for i, u := range p.urls {
		front, err := p.front(from, plan.Meta(i+1), strings.TrimPrefix(u, "http://"))
		if err != nil {
			return nil, err
		}
		urls = append(urls, front)
	}
	return metaclient.New(urls)
}

// front is the proxy between a role and an address of another one.
func (p *InProcess) front(from, to plan.Role, address string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := string(from) + " " + address
	if f, ok := p.fronts[key]; ok {
		return f, nil
	}
	f, err := p.net.Front(from, to, address)
	if err == nil {
		p.fronts[key] = f
	}
	return f, err
}

// dialer reaches servers through the proxies of one role.
type dialer struct {
	transport.Dialer
	p    *InProcess
	from plan.Role
}

// Dial implements transport.Dialer.
func (d dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	d.p.mu.Lock()
	to, known := d.p.addresses[addr]
	d.p.mu.Unlock()
	if known { // else it is of a server that registered this moment, or long gone
		front, err := d.p.front(d.from, to, strings.TrimPrefix(addr, "tcp://"))
		if err != nil {
			return nil, transport.Welcome{}, err
		}
		addr = "tcp://" + front
	}
	return d.Dialer.Dial(ctx, addr, h, idle)
}

func (p *InProcess) startServer(r plan.Role) error {
	asker, err := p.ask(r)
	if err != nil {
		return err
	}
	s, err := server.New(server.Config{
		ID: raid.ServerID(r), Memory: int64(memoryPerServer(p.size, p.cfg.Plan.Redundancy, p.cfg.Plan.Servers)), AllowSwappable: true,
		Listen: "127.0.0.1:0", Registrar: asker, Heartbeat: 300 * time.Millisecond,
		Peers: dialer{new(tcp.Dialer), p, r}, Log: p.cfg.Log,
		Labels: map[string]string{"host": string(r)},
	})
	if err != nil {
		asker.Close()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers[r] = &memoryServer{s, asker}
	p.addresses[s.Addr()] = r
	return nil
}

func (p *InProcess) stopServer(r plan.Role) error {
	p.mu.Lock()
	s := p.servers[r]
	delete(p.servers, r)
	p.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%s does not run", r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.Close(ctx)
	s.asker.Close()
	return err
}

func (p *InProcess) createVolume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := metaclient.New(p.urls)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		st, err := c.Status(ctx)
		if err == nil && len(st.Servers) == p.cfg.Plan.Servers {
			break
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return errors.Join(serr, err)
		}
	}
	_, err = c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "chaos", Size: uint64(p.size), Redundancy: p.cfg.Plan.Redundancy, FailureDomain: "server"})
	return err
}

// keptLease never gives the lease back: who is killed cannot.
type keptLease struct{ client.Meta }

func (keptLease) Detach(context.Context, raid.VolumeID, raid.Epoch) error { return nil }

// attach opens the volume, trying as long as a supervisor would.
func (p *InProcess) attach(ctx context.Context) error {
	v, err := p.attachAs(ctx, plan.Client)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.volume = v
	return err
}

func (p *InProcess) attachAs(ctx context.Context, r plan.Role) (*client.Volume, error) {
	asker, err := p.ask(r)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.askers = append(p.askers, asker)
	p.mu.Unlock()
	for {
		v, err := p.open(ctx, asker, r)
		if err == nil {
			return v, nil
		}
		p.mu.Lock()
		if ctx.Err() == nil { // else it says no more than that
			p.refused = err
		}
		err = p.refused
		p.mu.Unlock()
		if serr := sleep(ctx, 100*time.Millisecond); serr != nil {
			return nil, fmt.Errorf("the client cannot attach: %w: %w", serr, err)
		}
	}
}

func (p *InProcess) open(ctx context.Context, asker *metaclient.Client, r plan.Role) (*client.Volume, error) {
	layout, lease, err := asker.Attach(ctx, client.AttachRequest{Volume: "chaos", Holder: "chaos"})
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, client.Config{
		Layout: layout, Lease: lease, Meta: keptLease{asker}, Dialer: dialer{new(tcp.Dialer), p, r},
		ArenaBytes: 8 << 20, AllowSwappable: true, Holder: "chaos", Logger: p.cfg.Log,
	})
}

// detach ends the client without waiting for anything.
func (p *InProcess) detach() error {
	p.mu.Lock()
	v := p.volume
	p.volume = nil
	p.mu.Unlock()
	return leave(v)
}

// leave closes a volume, if there is one, without waiting for anything.
func leave(v *client.Volume) error {
	if v == nil {
		return nil
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	err := v.Close(now)
	if errors.Is(err, context.Canceled) {
		return nil // requests were open: so it should be
	}
	return err
}

// Name implements Target.
func (p *InProcess) Name() string { return "inproc" }

// Pages implements Target.
func (p *InProcess) Pages() int { return int(p.size) / raid.PageSize }

// Break implements Target.
func (p *InProcess) Break(ctx context.Context, f plan.Fault) (mend func(context.Context) error, err error) {
	if f.Kind.OnLink() {
		meta := func(r plan.Role) bool { return r.IsMeta() || r == plan.AllMeta }
		if meta(f.Link.A) && meta(f.Link.B) {
			return nil, skipped("metadata nodes of one process reach each other without a proxy")
		}
		undo, err := p.net.Break(f)
		if err != nil || f.Kind == plan.Reset {
			return nil, err
		}
		return func(context.Context) error { undo(); return nil }, nil
	}
	if f.Kind.Damages() {
		p.mu.Lock()
		defer p.mu.Unlock()
		s := p.servers[f.On]
		if s == nil {
			return nil, skipped("%s does not run", f.On)
		}
		// Through the kernel: the race detector need not know of it.
		return damage(badmem.Own(s.Arena()), f, p.cfg.Plan.Redundancy, p.r)
	}
	switch f.Kind {
	case plan.Kill, plan.Restart:
		if err := p.kill(f.On); err != nil {
			return nil, err
		}
		again := func(ctx context.Context) error { return p.again(ctx, f.On) }
		if f.Kind == plan.Restart {
			return nil, again(ctx)
		}
		return again, nil
	case plan.Freeze:
		return p.freeze(f.On)
	case plan.Takeover:
		return p.takeover(ctx, f)
	case plan.Fill:
		return p.fill(f.On)
	}
	return nil, skipped("all roles of one process have one clock")
}

// kill ends a role.
func (p *InProcess) kill(r plan.Role) error {
	switch {
	case r.IsServer():
		return p.stopServer(r)
	case r.IsMeta():
		p.mu.Lock()
		n := p.nodes[r]
		delete(p.nodes, r)
		p.mu.Unlock()
		return n.Close()
	}
	return p.detach()
}

// again starts a role that was killed.
func (p *InProcess) again(ctx context.Context, r plan.Role) error {
	switch {
	case r.IsServer():
		return p.startServer(r)
	case r.IsMeta():
		n, err := meta.Start(ctx, p.metaCfg[r])
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.nodes[r] = n
		return nil
	}
	return p.attach(ctx)
}

// freeze cuts a role off from all others.
func (p *InProcess) freeze(r plan.Role) (func(context.Context) error, error) {
	if r.IsMeta() {
		return nil, skipped("metadata nodes of one process reach each other without a proxy")
	}
	others := []plan.Role{plan.AllMeta, plan.Client}
	for i := range p.cfg.Plan.Servers {
		others = append(others, plan.Server(i+1))
	}
	var links []plan.Link
	for _, o := range others {
		if o != r {
			links = append(links, plan.Link{A: r, B: o})
		}
	}
	whole, err := cutAll(p.net, links)
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { whole(); return nil }, nil
}

func (p *InProcess) fill(r plan.Role) (func(context.Context) error, error) {
	d := p.disks[r]
	if err := d.fill(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		if err := d.empty(); err != nil {
			return err
		}
		p.mu.Lock()
		n := p.nodes[r]
		p.mu.Unlock()
		select {
		case <-n.Done(): // a node that cannot write ends: it is started again
			if err := p.kill(r); err != nil {
				return err
			}
			return p.again(ctx, r)
		case <-time.After(200 * time.Millisecond):
			return nil
		}
	}, nil
}

// Health implements Target.
func (p *InProcess) Health(ctx context.Context) string {
	p.mu.Lock()
	for r, n := range p.nodes {
		select {
		case <-n.Done():
			p.crashed = append(p.crashed, fmt.Sprintf("%s: %v", r, n.Err()))
			delete(p.nodes, r)
		default:
		}
	}
	v, nodes, refused := p.volume, len(p.nodes), p.refused
	p.mu.Unlock()
	switch {
	case v == nil:
		return fmt.Sprintf("the client is down: %v", refused)
	case nodes < p.cfg.Plan.Meta:
		return fmt.Sprintf("%d of %d metadata nodes run", nodes, p.cfg.Plan.Meta)
	}
	if rep := v.Report(); rep.State != client.StateHealthy || rep.RedundancyLeft != p.cfg.Plan.Redundancy.M || rep.RebuildRows > 0 {
		rep.Counters = nil
		return fmt.Sprintf("the client says: %+v", rep)
	}
	return health(ctx, p.urls, p.cfg.Plan.Servers, p.cfg.Plan.Redundancy.M)
}

// Crashed implements Target.
func (p *InProcess) Crashed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashed
}

// Close ends all of it.
func (p *InProcess) Close() error {
	errs := []error{p.detach(), leave(p.second)}
	for i := range p.cfg.Plan.Servers {
		r := plan.Server(i + 1)
		p.mu.Lock()
		_, runs := p.servers[r]
		p.mu.Unlock()
		if runs {
			errs = append(errs, p.stopServer(r))
		}
	}
	for _, n := range p.nodes {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	for _, a := range p.askers {
		a.Close()
	}
	errs = append(errs, p.net.Close())
	for _, h := range p.ports {
		errs = append(errs, h.Release())
	}
	for _, d := range p.disks {
		if d != nil {
			errs = append(errs, d.unmount())
		}
	}
	return errors.Join(errs...)
}
