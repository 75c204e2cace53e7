package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"dmps/internal/reach"
	"dmps/meta"
)

type metaFlags struct {
	role         roleFlags
	id           string
	dir          string
	api          string
	raft         string
	apiPublic    string
	raftPublic   string
	join         []string
	expect       int
	suspectAfter time.Duration
	grace        time.Duration
	massGrace    time.Duration
	lease        time.Duration
	protect      bool
}

func (a *app) metaCommand() *cobra.Command {
	var f metaFlags
	cmd := &cobra.Command{
		Use:     "meta",
		Short:   "Run a metadata node",
		GroupID: groupRoles,
		Long: `Runs one node of the metadata service, which decides who lends memory to which
volume and who may write it. One node is enough to try things; three survive the
loss of one, five of two. Paging does not depend on it.

A cluster is formed once, by as many new nodes as --bootstrap-expect says, each
of which names the others with --join. Later nodes only --join. A node's folder
is its identity: started again with the same folder, it is the same node.`,
		Example: `  dmps meta --dir /var/lib/dmps/meta                       # one node

  # three nodes, on hosts a, b and c; the same command line on each but for the id
  dmps meta --id a --dir /var/lib/dmps/meta --api 10.0.0.1:7200 --raft 10.0.0.1:7201 \
    --bootstrap-expect 3 --join 10.0.0.1:7200,10.0.0.2:7200,10.0.0.3:7200 --insecure-network

  dmps meta list
  dmps meta backup /backup/dmps-meta
  curl -s -X POST -H 'Content-Type: application/json' -d '{}' \
    http://127.0.0.1:7200/dmps.meta.v1.StatusService/GetStatus`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runMeta(cmd.Context(), f)
		},
	}
	f.role.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.id, "id", "meta1", "`name` of the node, unique in the cluster")
	fl.StringVar(&f.dir, "dir", "", "`folder` of this node's state, made when missing (required)")
	fl.StringVar(&f.api, "api", "127.0.0.1:7200", "`address` of the API")
	fl.StringVar(&f.raft, "raft", "127.0.0.1:7201", "`address` for the other nodes")
	fl.StringVar(&f.apiPublic, "api-advertise", "", "`address` under which others reach the API (default: --api)")
	fl.StringVar(&f.raftPublic, "raft-advertise", "", "`address` under which other nodes reach this one (default: --raft)")
	fl.StringSliceVar(&f.join, "join", nil, "API `addresses` of the other nodes; the own one may be among them")
	fl.IntVar(&f.expect, "bootstrap-expect", 0, "form a new cluster of so many `nodes`: 1, 3 or 5 (default: 1 without --join, otherwise join only)")
	fl.DurationVar(&f.suspectAfter, "suspect-after", 0, "without a heartbeat for so long a memory server is suspect (default 2s)")
	fl.DurationVar(&f.grace, "grace", 0, "after so long a silent memory server is down, and its members are rebuilt on others (default 30s)")
	fl.DurationVar(&f.lease, "lease", 0, "how long a volume's lease is valid without renewal (default 10s)")
	fl.BoolVar(&f.protect, "protect", false, "this host swaps to a volume: keep the node out of its swap space, which a client that starts again cannot serve before it has asked the metadata")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined above
	}
	fl.DurationVar(&f.massGrace, "mass-grace", 0, "the same for servers that fall silent together: more than half of all, or a whole rack or zone; most of them come back with what they hold (default 10m, or --grace)")
	noCompletion(cmd, "id", "api", "raft", "api-advertise", "raft-advertise", "join", "bootstrap-expect", "suspect-after", "grace", "mass-grace", "lease")
	nameMeansID(cmd, &f.id)
	cmd.AddCommand(a.metaListCommand(), a.metaLeaveCommand(), a.metaRaiseCommand(), a.metaBackupCommand(), a.metaVerifyCommand(),
		a.metaRestoreCommand(), a.metaRecoverCommand())
	return cmd
}

func (a *app) runMeta(ctx context.Context, f metaFlags) (err error) {
	outlivePipes()
	log := a.logger()
	for _, addr := range []struct{ flag, value, told string }{{"api", f.api, f.apiPublic}, {"raft", f.raft, f.raftPublic}} {
		if err := f.role.checkAddr(addr.flag, addr.value); err != nil {
			return err
		}
		if err := reach.Told([]string{cmp.Or(addr.told, addr.value)}, nil, "--"+addr.flag+"-advertise"); err != nil {
			return usageError("--%s: %w", addr.flag, err)
		}
	}
	if f.protect {
		// Nothing waits for it from one page to the next: it need not come first.
		if err := protectRole("dmps-meta-"+f.id, 0); err != nil {
			return err
		}
		if err := mustLockMemory(); err != nil {
			return err
		}
	}
	pid, err := takePIDFile(f.role.pidFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pid.release()) }()
	node, err := meta.Start(ctx, meta.Config{
		Dir: f.dir, Name: f.id,
		APIListen: f.api, RaftListen: f.raft, APIAdvertise: f.apiPublic, RaftAdvertise: f.raftPublic,
		Hosts: f.role.hosts, Join: f.join, BootstrapExpect: f.expect, InsecureNetwork: f.role.insecure,
		SuspectAfter: f.suspectAfter, Grace: f.grace, MassGrace: f.massGrace, LeaseTTL: f.lease,
		Version: version, Logger: log,
	})
	if err != nil {
		return err
	}
	log.Info("metadata node is up", "id", node.ID(), "api", node.APIURL(), "raft", node.RaftAddr(), "dir", f.dir)
	ready(log)
	select {
	case <-ctx.Done():
		log.Info("ending")
		leaving(log)
		return node.Close()
	case <-node.Done():
		return errors.Join(node.Err(), node.Close())
	}
}

// nameMeansID makes --name another word for --id: what operators choose is the
// name, and messages of the nodes speak of it.
func nameMeansID(cmd *cobra.Command, id *string) {
	f := cmd.Flags()
	f.StringVar(id, "name", "meta1", "the same as --id")
	if err := f.MarkHidden("name"); err != nil {
		panic(err) // the flag is defined above
	}
	cmd.MarkFlagsMutuallyExclusive("id", "name")
}
