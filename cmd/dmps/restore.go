package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"dmps/internal/reach"
	"dmps/meta"
)

// againFlags say where a cluster begins again, as one node.
type againFlags struct {
	dir  string
	raft string
}

func (f *againFlags) add(cmd *cobra.Command, dir string) {
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "dir", "", dir)
	fl.StringVar(&f.raft, "raft", "127.0.0.1:7201", "`address` under which other nodes will reach this one: what 'dmps meta --raft-advertise', or --raft, will say")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined above
	}
	noCompletion(cmd, "raft")
}

// check refuses an address that leads other nodes to themselves.
func (f *againFlags) check() error {
	if err := reach.Told([]string{f.raft}, nil, "--raft"); err != nil {
		return usageError("%w", err)
	}
	return nil
}

// begunAgain is the folder that a cluster begins again with.
type begunAgain struct {
	Dir  string `json:"dir"`
	Raft string `json:"raft"`
	meta.Contents
	Next []string `json:"next"` // what to do now, in this order

	leasesStay bool
}

// steps are what follows once the folder is there.
func (b *begunAgain) steps() {
	b.Next = []string{"never start another node of the old cluster again: remove their folders"}
	if !b.leasesStay {
		b.Next = append(b.Next, "end every client of the cluster that still runs: their leases are over")
	}
	network := ""
	if new(roleFlags).checkAddr("raft", b.Raft) != nil {
		network = " --insecure-network"
	}
	b.Next = append(b.Next,
		fmt.Sprintf("start the node: dmps meta --id %s --dir %s --raft %s --api HOST:PORT%s", b.Node, b.Dir, b.Raft, network),
		"wait until 'dmps server list' shows the servers: each says within seconds what it holds")
	if !b.leasesStay {
		b.Next = append(b.Next, "attach the volumes: dmps attach VOLUME")
	}
	b.Next = append(b.Next,
		"add nodes, each with an empty folder: dmps meta --id NAME --dir EMPTY --raft HOST:PORT --api HOST:PORT --join HOST:PORT"+network+"; NAME may be that of a node which was removed",
		"make a backup: dmps meta backup FILE")
}

func (a *app) printBegunAgain(b begunAgain, output string) error {
	b.steps()
	if output == "json" {
		return printJSON(a.out, b)
	}
	if _, err := fmt.Fprintf(a.out, "%s holds cluster %s as of command %d: %s, %s\n", b.Dir, b.Cluster, b.Applied, count(b.Volumes, "volume"), count(b.Servers, "memory server")); err != nil {
		return err
	}
	for i, s := range b.Next {
		if _, err := fmt.Fprintf(a.out, "%d. %s\n", i+1, s); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) metaRestoreCommand() *cobra.Command {
	var (
		f      againFlags
		id     string
		dry    bool
		output choice
		yes    consent
	)
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Begin again from a backup, after all metadata disks were lost",
		Long: `Makes the folder of a metadata node from a backup. Started there, that node is the
whole cluster; others join it with empty folders. Nothing runs meanwhile and no
metadata service is asked. - reads the backup from standard input.

The state is as old as the backup and is treated so: leases are over, what was
decided later is forgotten, and a volume can be attached once its servers have
said what they hold. Volumes that were created after the backup are gone.

A folder that is not empty is refused, and so is the restore while a node answers
that the backup names. No node of the old cluster may ever be started again: it
would end as soon as it hears of the new one. While a majority of them is left, do not
restore but start them.

Memory servers keep chunks that were given out after the backup: 'dmps server list'
shows how many the metadata does not know, 'dmps server purge' has them given back.

--dry-run makes nothing. It asks the memory servers that the backup names which of
the members that it knows they still hold, and says what would be lost.`,
		Example: `  dmps meta restore /backup/dmps-meta --dir /var/lib/dmps/meta --dry-run
  dmps meta restore /backup/dmps-meta --dir /var/lib/dmps/meta --id meta1
  dmps meta restore /backup/dmps-meta --dir /var/lib/dmps/meta --id meta1 --raft 10.0.0.1:7201 --yes`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dry {
				return a.prospect(cmd.Context(), args[0], output.value)
			}
			if err := f.check(); err != nil {
				return err
			}
			deed := fmt.Sprintf("begin a cluster again in %s, from backup %s", f.dir, args[0])
			if err := yes.ask(a, deed, "What was decided after the backup is forgotten, and all leases are over.",
				"No node of the old cluster may ever be started again."); err != nil {
				return err
			}
			err := a.readBackup(args[0], func(in io.Reader) error {
				return meta.Restore(cmd.Context(), in, meta.RestoreConfig{Dir: f.dir, Name: id, RaftAdvertise: f.raft})
			})
			if err != nil {
				return err
			}
			return a.describeAgain(f, false, output.value)
		},
	}
	f.add(cmd, "`folder` of the node: empty, made when missing (required)")
	cmd.Flags().StringVar(&id, "id", "meta1", "`name` of the node")
	noCompletion(cmd, "id")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only ask the memory servers what of the backup they still hold")
	nameMeansID(cmd, &id)
	outputFlag(cmd, &output)
	yes.flag(cmd)
	return cmd
}

func (a *app) metaRecoverCommand() *cobra.Command {
	var (
		f      againFlags
		dry    bool
		only   bool
		output choice
		yes    consent
	)
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Begin again from one surviving disk, after a majority was lost for good",
		Long: `Makes the folder of a node that survived the whole cluster, when the disks of a
majority are lost for good. Started there, that node is the whole cluster; others
join it with empty folders. It refuses while a node runs on the folder, keeps the
node's name, and may be repeated.

Of several survivors take the one that knows most: --dry-run changes nothing and
says as of which command each one is ("logged" in JSON); the highest is best.
What it never got is forgotten, and treated as with a backup: leases are over, and
a volume can be attached once its servers have said what they hold.

Do this only when the majority cannot come back: when it does, there are two
clusters that know nothing of each other.

--membership-only keeps leases, so that clients go on paging: for a cluster that
lost its majority by a change of its nodes, not by a crash. The folder must hold all
that was ever decided. That is so for the node that led last; of a node that may
lack something it would give out again what others have.`,
		Example: `  dmps meta recover --dir /var/lib/dmps/meta --dry-run
  dmps meta recover --dir /var/lib/dmps/meta --raft 10.0.0.2:7201
  dmps meta recover --dir /var/lib/dmps/meta --raft 10.0.0.2:7201 --membership-only`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			c, err := meta.Examine(f.dir)
			if err != nil {
				return err
			}
			if dry {
				return a.printSurvivor(c, output.value)
			}
			deed := fmt.Sprintf("make node %s the whole cluster %s, as of command %d", c.Node, c.Cluster, c.Logged)
			lost := "What only the lost nodes knew is forgotten, and all leases are over."
			if only {
				lost = "Leases stay. This node must hold all that was ever decided: it led last, or has applied as much as every other."
			}
			if err := yes.ask(a, deed, lost,
				"No other node of the old cluster may ever be started again."); err != nil {
				return err
			}
			if err := recoverSurvivor(cmd.Context(), f, only); err != nil {
				return err
			}
			return a.describeAgain(f, only, output.value)
		},
	}
	f.add(cmd, "`folder` of the node that survived (required)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what the folder holds")
	cmd.Flags().BoolVar(&only, "membership-only", false, "keep leases: the folder lacks nothing, only the other nodes are gone")
	outputFlag(cmd, &output)
	yes.flag(cmd)
	return cmd
}

func recoverSurvivor(ctx context.Context, f againFlags, membershipOnly bool) error {
	return meta.RecoverSurvivor(ctx, meta.RestoreConfig{Dir: f.dir, RaftAdvertise: f.raft, MembershipOnly: membershipOnly})
}

func (a *app) printSurvivor(c meta.Contents, output string) error {
	if output == "json" {
		return printJSON(a.out, c)
	}
	_, err := fmt.Fprintf(a.out, "node %s of cluster %s: as of command %d; %s, %s\n", c.Node, c.Cluster, c.Logged, count(c.Volumes, "volume"), count(c.Servers, "memory server"))
	return err
}

// describeAgain looks at what the folder holds now, and says what follows.
func (a *app) describeAgain(f againFlags, leasesStay bool, output string) error {
	c, err := meta.Examine(f.dir)
	if err != nil {
		return err
	}
	return a.printBegunAgain(begunAgain{Dir: f.dir, Raft: f.raft, Contents: c, leasesStay: leasesStay}, output)
}
