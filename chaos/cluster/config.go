package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// Config says what to start.
type Config struct {
	Bin          string          // the dmps program, absolute path
	Dir          string          // folder of the cluster; made when absent
	Meta         int             // metadata nodes: 1, 3 or 5
	Servers      int             // memory servers
	ServerMemory bytesize.Size   // that each lends
	Redundancy   raid.Geometry   // of the volume
	Layout       raid.LayoutKind // of the volume
	Size         bytesize.Size   // of the volume
	Volume       string          // its name
	NBD          nbdclient.Addr  // where it is served; port 0 takes a free one

	// Scheme is that of the memory servers' addresses; empty: tcp. fabric+PROVIDER
	// needs a Bin that was built for it.
	Scheme string
	// Rails is how many addresses each memory server has: the same port at
	// 127.0.0.1, 127.0.0.2 and so on. 0: one.
	Rails int

	RoleArgs   []string // added to every role's command line
	MetaArgs   []string // added to every metadata node's command line
	ServerArgs []string // added to every server's command line
	ClientArgs []string // added to the client's command line

	// Front, when not nil, is asked for the address under which the others are to
	// reach a role, where it listens at address: a proxy's. It is asked for each
	// address of a memory server. cluster.json names where the roles listen.
	Front func(role, address string) (string, error)
	// MetaDir, when not nil, gives the folder of a metadata node's state instead
	// of one in Dir. It must be empty.
	MetaDir func(id string) string

	Force bool         // end leftover processes of an earlier cluster in Dir
	Log   *slog.Logger // gets what happens to roles. Default: nothing is logged

	// Progress, when not nil, is told what is being waited for.
	Progress func(what string)
	// StartTimeout bounds each step of Start. Default 60 s.
	StartTimeout time.Duration

	connect func(urls []string) (control, error) // tests put their own here
}

// control is what Start needs of the metadata service.
type control interface {
	Status(ctx context.Context) (*metaclient.Status, error)
	CreateVolume(ctx context.Context, spec metaclient.VolumeSpec) (metaclient.Volume, error)
	Close()
}

// connectMeta asks in short attempts: between them Start looks whether a role
// has ended.
func connectMeta(urls []string) (control, error) {
	return metaclient.New(urls, metaclient.WithPatience(time.Second))
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = time.Minute
	}
	if c.Front == nil {
		c.Front = func(_, address string) (string, error) { return address, nil }
	}
	if c.connect == nil {
		c.connect = connectMeta
	}
	return c
}

// validate reports everything that is wrong.
func (c Config) validate() error {
	var errs []error
	add := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !filepath.IsAbs(c.Bin) {
		add("program %q: must be an absolute path, or nobody can start a role again", c.Bin)
	}
	if c.Meta != 1 && c.Meta != 3 && c.Meta != 5 {
		add("%d metadata nodes: must be 1, 3 or 5; an even number survives no more failures than one less", c.Meta)
	}
	if err := c.Redundancy.Validate(); err != nil {
		errs = append(errs, err)
	} else if n := c.Redundancy.Members(); c.Servers < n {
		add("redundancy %v needs %d memory servers, one a member of a group: have %d", c.Redundancy, n, c.Servers)
	}
	if c.Layout != raid.LayoutLog && c.Redundancy != (raid.Geometry{K: 1}) {
		add("layout %v has no redundancy: use --redundancy none, or --layout log", c.Layout)
	}
	if c.Size < raid.PageSize {
		add("volume of %v: must be at least a page of %d bytes", c.Size, raid.PageSize)
	}
	if c.Volume == "" {
		add("the volume has no name")
	}
	if c.NBD != (nbdclient.Addr{}) {
		if err := c.NBD.Fit(); err != nil {
			errs = append(errs, err)
		} else if host, _, _ := net.SplitHostPort(c.NBD.Address); c.NBD.Network == "tcp" && host != "localhost" && !net.ParseIP(host).IsLoopback() {
			add("NBD address %s: every host that reaches it could read and write the volume: use a unix socket, or an address of loopback", c.NBD.Address)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

// ErrConfig is what a Config is refused with before anything is made or started.
var ErrConfig = errors.New("cluster")
