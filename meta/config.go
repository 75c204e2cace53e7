package meta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"dmps/internal/reach"
	"dmps/meta/level"
	"dmps/meta/metaclient"
	"dmps/meta/state"
)

// Config is what a Node is started with. Zero values are the defaults.
type Config struct {
	Dir  string // folder of this node alone, made when missing
	Name string // of the node, unique in the cluster; kept in Dir. Default: meta1

	APIListen     string   // host:port of the API. Default: 127.0.0.1:7200
	RaftListen    string   // host:port for other nodes. Default: 127.0.0.1:7201
	APIAdvertise  string   // host:port under which others reach the API. Default: the listener's
	RaftAdvertise string   // host:port under which other nodes reach this one. Default: the listener's
	Hosts         []string // names by which the API may be asked for besides (package hostcheck)

	// Join are API addresses of other nodes. A node without state joins their
	// cluster, or, with BootstrapExpect, forms one with them.
	Join []string
	// BootstrapExpect is the number of nodes that form a new cluster, this one
	// included. 0 with Join: only join. Default without Join: 1.
	BootstrapExpect int

	InsecureNetwork bool // allow listening beyond loopback, where nothing is authenticated yet

	SuspectAfter time.Duration // a server is suspect after that long without a heartbeat. Default: 2 s
	Grace        time.Duration // and down after that long. Default: 30 s
	MassGrace    time.Duration // the same of servers that fall silent with too many others (state.State.Together). Default: 10 min, or Grace
	LeaseTTL     time.Duration // of a lease without renewal. Default: 10 s

	MaxRebuilding int // members of one volume that are filled at once. Default: no limit
	MaxMoves      int // members of living servers that are moved at once, in the whole cluster. Default: 16

	Version string // of the program, for others to see; empty: unknown

	Logger *slog.Logger // default: slog.Default()

	build level.Build // what this node knows. Tests: another build than this one

	promoteAfter time.Duration // tests: a node that joins votes when it has answered for so long. Default: 2 s

	// dialBack finds a memory server at one of its addresses. Tests: servers of the books only.
	dialBack func(ctx context.Context, addr string, c *state.Register, cluster string) error

	beforeLog func() error // tests: before a write of Raft's log, as if by a slow disk, or one that fails
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("a metadata node needs a folder: use --dir")
	}
	setDefault(&c.Name, "meta1")
	setDefault(&c.APIListen, "127.0.0.1:7200")
	setDefault(&c.RaftListen, "127.0.0.1:7201")
	setDefault(&c.SuspectAfter, 2*time.Second)
	setDefault(&c.Grace, 30*time.Second)
	setDefault(&c.MassGrace, max(10*time.Minute, c.Grace))
	setDefault(&c.LeaseTTL, 10*time.Second)
	setDefault(&c.MaxMoves, 16)
	setDefault(&c.promoteAfter, 2*time.Second)
	setDefault(&c.Logger, slog.Default())
	if c.dialBack == nil {
		c.dialBack = dialBack
	}
	setDefault(&c.build, level.This(c.Version))
	if len(c.Join) == 0 {
		setDefault(&c.BootstrapExpect, 1)
	}
	switch {
	case !state.ValidName(c.Name):
		return c, fmt.Errorf("node name %q: use 1 to 63 of a-z A-Z 0-9 . _ -", c.Name)
	case c.BootstrapExpect < 0 || c.BootstrapExpect > 9:
		return c, fmt.Errorf("bootstrap-expect %d: use 1, 3 or 5", c.BootstrapExpect)
	case c.BootstrapExpect > 1 && len(c.Join) == 0:
		return c, fmt.Errorf("bootstrap-expect %d needs the API addresses of the other nodes: use --join", c.BootstrapExpect)
	case c.MaxRebuilding < 0 || c.MaxMoves < 0:
		return c, errors.New("limits of members that are filled or moved at once are not negative")
	case c.Grace > c.MassGrace:
		return c, fmt.Errorf("mass grace %v is shorter than the grace %v of a single server", c.MassGrace, c.Grace)
	case c.SuspectAfter > c.Grace:
		return c, fmt.Errorf("grace %v is shorter than the %v after which a server is suspect", c.Grace, c.SuspectAfter)
	}
	for i, u := range c.Join {
		parsed, err := metaclient.ParseURL(u)
		if err != nil {
			return c, err
		}
		c.Join = append([]string(nil), c.Join...)
		c.Join[i] = parsed
	}
	if c.InsecureNetwork {
		return c, errors.Join(
			reach.Told([]string{cmp.Or(c.APIAdvertise, c.APIListen)}, nil, "--api-advertise"),
			reach.Told([]string{cmp.Or(c.RaftAdvertise, c.RaftListen)}, nil, "--raft-advertise"),
		)
	}
	for _, addr := range []string{c.APIListen, c.RaftListen} {
		if err := loopbackOnly(addr); err != nil {
			return c, err
		}
	}
	return c, nil
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// loopbackOnly refuses addresses that other machines reach.
func loopbackOnly(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen address %s is not loopback, and nothing is authenticated yet: use --insecure-network on a network that you trust", addr)
}
