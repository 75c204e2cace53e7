package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dmps/chaos/cluster"
	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
)

// devFlags say what an embedded cluster consists of.
type devFlags struct {
	dir      string
	meta     int
	servers  int
	memory   bytesize.Size
	shape    shapeFlags
	nbd      string
	volume   string
	arena    bytesize.Size
	profiles bool
	lock     bool
	grace    time.Duration
	force    bool
	scheme   string
	rails    int
}

func (d *devFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	// --meta says here how many; the URLs of another cluster mean nothing to
	// a command that makes its own.
	f.IntVar(&d.meta, "meta", 3, "`number` of metadata nodes: 1, 3 or 5")
	f.IntVar(&d.servers, "servers", 6, "`number` of memory servers")
	d.memory = 512 * bytesize.MiB
	f.Var(&d.memory, "server-memory", "what each memory server lends")
	d.shape.size, d.shape.redundancy = bytesize.GiB, geometryFlag{K: 4, M: 2}
	d.shape.add(cmd)
	f.StringVar(&d.volume, "volume", "swap0", "`name` of the volume")
	d.arena = 64 * bytesize.MiB
	f.Var(&d.arena, "arena", "page buffers of the client")
	f.BoolVar(&d.profiles, "pprof", false, "serve profiles at the client's admin address")
	f.DurationVar(&d.grace, "grace", 0, "after so long a silent memory server is down, and its members are rebuilt on others (default 30s)")
	f.BoolVar(&d.lock, "lock-memory", false, "fail when memory cannot be locked, as servers and clients do outside of dev")
	f.StringVar(&d.scheme, "transport", "tcp", "how memory servers serve: tcp, or `fabric+PROVIDER` for one-sided transfers")
	f.IntVar(&d.rails, "rails", 1, "`number` of addresses of each memory server, at 127.0.0.1, 127.0.0.2 and so on: clients use all")
	noCompletion(cmd, "meta", "servers", "server-memory", "volume", "arena", "transport", "rails")
}

// config is the cluster that the flags describe.
func (d *devFlags) config(a *app) (cluster.Config, error) {
	nbd, err := nbdclient.ParseListen(d.nbd)
	if err != nil {
		return cluster.Config{}, usageError("--nbd: %v", err)
	}
	if err := d.shape.check(); err != nil {
		return cluster.Config{}, err
	}
	bin, err := os.Executable()
	if err != nil {
		return cluster.Config{}, fmt.Errorf("finding this program: %w", err)
	}
	scheme := d.scheme
	if scheme == "tcp" {
		scheme = ""
	} else if _, _, err := fabric.ParseAddress(scheme + "://127.0.0.1:0"); err != nil {
		return cluster.Config{}, usageError("--transport: %w", err)
	}
	if d.rails < 1 || d.rails > transport.MaxRails {
		return cluster.Config{}, usageError("--rails: 1 to %d", transport.MaxRails)
	}
	var server []string
	client := []string{"--arena", d.arena.String()}
	if !d.lock {
		server, client = append(server, "--allow-swappable"), append(client, "--allow-swappable")
	}
	if d.profiles {
		client = append(client, "--pprof")
	}
	var meta []string
	if d.grace > 0 {
		meta = []string{"--grace", d.grace.String()}
	}
	return cluster.Config{
		MetaArgs: meta,
		Bin:      bin, Dir: d.dir, Meta: d.meta, Servers: d.servers, ServerMemory: d.memory,
		Redundancy: raid.Geometry(d.shape.redundancy), Layout: raid.LayoutKind(d.shape.layout), Size: d.shape.size,
		Volume: d.volume, NBD: nbd, Scheme: scheme, Rails: d.rails,
		RoleArgs:   []string{"--log-level", strings.ToLower(a.logLevel.String()), "--log-format", a.logFormat.value},
		ServerArgs: server, ClientArgs: client,
		Force: d.force, Log: a.logger(),
	}, nil
}

func (a *app) devCommand() *cobra.Command {
	var d devFlags
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run a whole cluster on this machine until it is told to end",
		GroupID: groupTry,
		Long: `Starts metadata nodes, memory servers and a client, each a process of its own,
creates a volume and serves it over NBD, until SIGTERM or Ctrl-C ends them all.

It serves when DIR/cluster.json exists, which holds the NBD URI and, for every
role, its process id, address and command line ("argv"). A role may be killed,
frozen, and started again by running its argv, by anybody: cluster.json follows.
Logs are in DIR/logs. docs/dev-cluster.md describes the interface for programs.

The memory servers share this host, so the volume survives their death, not the
host's. Memory is not locked unless --lock-memory is given: do not swap to this.`,
		Example: `  dmps dev
  dmps dev --redundancy mirror:3 --size 2GiB --server-memory 1GiB --nbd 127.0.0.1:10810
  dmps dev --dir /tmp/d --nbd unix:/tmp/d/nbd.sock &
  until [ -e /tmp/d/cluster.json ]; do sleep 0.1; done
  kill -9 $(jq '.servers[0].pid' /tmp/d/cluster.json)   # nothing should happen
  nbdinfo $(jq -r .nbd /tmp/d/cluster.json)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.dev(cmd.Context(), d)
		},
	}
	d.add(cmd)
	f := cmd.Flags()
	f.StringVar(&d.dir, "dir", "", "`folder` of the cluster (default: a new one in the temporary folder, removed at the end)")
	f.StringVar(&d.nbd, "nbd", "127.0.0.1:10809", "where NBD is served: `ADDRESS` is HOST:PORT (port 0 takes a free one) or unix:PATH")
	f.BoolVar(&d.force, "force", false, "end processes that an earlier cluster left in the folder")
	noCompletion(cmd, "nbd")
	return cmd
}

func (a *app) dev(ctx context.Context, d devFlags) error {
	cfg, err := d.config(a)
	if err != nil {
		return err
	}
	return a.inFolder(cfg.Dir, func(dir string) error {
		cfg.Dir = dir
		cfg.Progress = a.progress("dmps dev")
		c, err := cluster.Start(ctx, cfg)
		if err != nil {
			return err
		}
		err = a.describeDev(c)
		if errors.Is(err, syscall.EPIPE) {
			err = nil // nobody reads it any more; the cluster was asked for all the same
		}
		if err == nil {
			<-ctx.Done()
			cfg.Progress("ending all roles")
		}
		return errors.Join(err, c.Stop())
	})
}

// progress prints what is being done, for a person who waits.
func (a *app) progress(who string) func(string) {
	return func(what string) { fmt.Fprintf(a.err, "%s: %s\n", who, what) }
}

// inFolder runs f in dir or, when that is empty, in a temporary folder that is
// kept only when something went wrong: then its logs tell what.
func (a *app) inFolder(dir string, f func(dir string) error) error {
	outlivePipes() // what is started has to be ended too
	if dir != "" {
		return f(dir)
	}
	dir, err := os.MkdirTemp("", "dmps-")
	if err != nil {
		return fmt.Errorf("making a temporary folder: %w", err)
	}
	if err := f(dir); errors.Is(err, cluster.ErrConfig) {
		return errors.Join(err, os.RemoveAll(dir)) // nothing was started
	} else if err != nil {
		fmt.Fprintf(a.err, "dmps: logs are kept in %s\n", filepath.Join(dir, "logs"))
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the temporary folder: %w", err)
	}
	return nil
}

// describeDev says how to use what now runs.
func (a *app) describeDev(c *cluster.Cluster) error {
	f := c.File()
	var t table
	p := paletteFor(a.out)
	t.row(p.paint(colourBold, "NBD"), f.NBD)
	t.row(p.paint(colourBold, "volume"), fmt.Sprintf("%s, %s, %s, %s", f.Volume, human(f.SizeBytes), f.Redundancy, f.Layout))
	t.row(p.paint(colourBold, "cluster.json"), filepath.Join(c.Dir(), cluster.FileName))
	t.row(p.paint(colourBold, "logs"), filepath.Join(c.Dir(), "logs"))
	t.row(p.paint(colourBold, "status"), "dmps status --meta "+strings.Join(f.MetaURLs, ","))
	return t.print(a.out)
}
