package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
)

// metaVariable is where the metadata nodes are found without --meta.
const metaVariable = "DMPS_META"

// app is one run of the program: where it reads and writes, and the flags
// that every command has.
type app struct {
	in       io.Reader
	out, err io.Writer

	metaURLs  []string
	timeout   time.Duration
	logLevel  slog.Level
	logFormat choice

	started bool // a command began to run: from here on errors are not about usage
}

// sameSignal is how long further signals count as the first: timeout(1) signals its child,
// and then the whole process group.
const sameSignal = time.Second

// run executes one command line and returns the exit code.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	noSuchTopic(root)
	root.SetErr(a.err)

	// The first signal asks, one more ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })

	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitcode.OK
	}
	var quiet *exitError
	if errors.As(err, &quiet) && quiet.err == nil {
		return quiet.code
	}
	if !a.started {
		fmt.Fprintf(a.err, "dmps: %s\nSee '%s --help'.\n", printable(err.Error()), cmd.CommandPath())
		return exitcode.Usage
	}
	fmt.Fprintf(a.err, "dmps: %s\n", printable(err.Error()))
	if advice := a.advice(err); advice != "" {
		fmt.Fprintf(a.err, "%s\n", advice)
	}
	return codeOf(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dmps",
		Short: "Swap and block devices in the memory of other machines, with redundancy",
		Long: `dmps gives a Linux machine a block device whose pages live in the memory of
other machines, mirrored or Reed-Solomon coded, and keeps every page readable
while those machines fail.

One program, all roles: memory servers lend memory (dmps server), metadata nodes
decide who lends what to whom (dmps meta), and a client serves a volume over NBD
(dmps attach). To see all of it on this machine: dmps demo, dmps dev.

Exit codes:
   0  done; status: everything is healthy; rebuild: the volume is whole; scrub:
      everything is right
   1  not done, the message says why; status: the state cannot be told; scrub:
      not everything could be verified
   2  status, rebuild: a volume has less redundancy than promised, no data is
      lost; scrub: something was wrong and is repaired
   3  status, rebuild: a volume has lost data or cannot be written; scrub:
      something is wrong and cannot be repaired
  64  the command line is wrong
  66  no volume, memory server or metadata node has this name
  69  no metadata node answers, or they have no leader
  73  an address to listen on cannot be had
  75  the volume is attached elsewhere
  77  attach: another client has taken the volume
  78  this version does not know the level of the cluster, or of the backup`,
		Example: `  dmps demo                                    # watch two of six memory servers die
  dmps dev --redundancy mirror:3 --size 2GiB   # a cluster on this machine, staying up
  export DMPS_META=http://127.0.0.1:7200
  dmps volume create swap0 --size 16GiB --redundancy rs:4+2
  dmps attach swap0 --nbd 127.0.0.1:10809
  dmps status
  dmps events -f`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       buildInfo().String(),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.ValidateRequiredFlags(); err != nil {
				return err
			}
			a.started = true
			return nil
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	f := root.PersistentFlags()
	f.StringSliceVar(&a.metaURLs, "meta", nil, "`URLs` of metadata nodes, any of them, separated by commas (default $"+metaVariable+")")
	f.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long to look for a metadata node that can answer (status, top, events: 4s; roles that serve go on looking)")
	f.TextVar(&a.logLevel, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn, error")
	a.logFormat = newChoice("text", "text", "json")
	f.Var(&a.logFormat, "log-format", "`format` of the log on standard error: text or json")
	completeChoice(root, "log-format", a.logFormat.allowed)
	completeChoice(root, "log-level", []string{"debug", "info", "warn", "error"})
	noCompletion(root, "meta", "timeout")

	root.AddGroup(
		&cobra.Group{ID: groupRoles, Title: "Roles:"},
		&cobra.Group{ID: groupManage, Title: "Look after a cluster:"},
		&cobra.Group{ID: groupTry, Title: "Try and measure:"},
	)
	root.AddCommand(
		a.serverCommand(), a.metaCommand(), a.attachCommand(), a.detachCommand(), a.doctorCommand(),
		a.volumeCommand(), a.statusCommand(), a.topCommand(), a.eventsCommand(), a.rebuildCommand(), a.scrubCommand(), a.rebalanceCommand(),
		a.devCommand(), a.demoCommand(), a.benchCommand(),
		a.manCommand(), a.versionCommand(),
	)
	return root
}

// noSuchTopic has help and completion fail for what there is not: scripts see it.
func noSuchTopic(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			show := c.Run
			c.Run = nil
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if _, left, err := root.Find(args); err != nil || len(left) > 0 {
					return usageError("there is no command %q", strings.Join(args, " "))
				}
				show(cmd, args)
				return nil
			}
		case "completion":
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usageError("completion for %q is not known: bash, zsh, fish or powershell", strings.Join(args, " "))
				}
				return cmd.Help()
			}
		}
	}
}

const (
	groupRoles  = "roles"
	groupManage = "manage"
	groupTry    = "try"
)

// urls are the metadata nodes to ask, by flag or variable.
func (a *app) urls() []string {
	if len(a.metaURLs) > 0 {
		return a.metaURLs
	}
	if v := os.Getenv(metaVariable); v != "" {
		return strings.Split(v, ",")
	}
	return nil
}

// meta is a client of the metadata service. The caller closes it.
func (a *app) meta() (*metaclient.Client, error) {
	return a.metaAs(hostIdentity())
}

// metaAs is meta for a process that says more of itself.
func (a *app) metaAs(h metaclient.Host) (*metaclient.Client, error) {
	return asked(metaclient.New(a.urls(), metaclient.WithPatience(a.timeout), metaclient.WithHost(h), metaclient.WithVersion(version)))
}

// soonPatience is how long a question waits for an answer that is worth little
// later: an election takes about two seconds.
const soonPatience = 4 * time.Second

// metaSoon is meta for commands that tell how things are: unless --timeout is
// given they say soon that nobody answers. The caller closes it.
func (a *app) metaSoon(cmd *cobra.Command) (*metaclient.Client, error) {
	patience := a.timeout
	if !cmd.Flags().Changed("timeout") {
		patience = min(patience, soonPatience)
	}
	return asked(metaclient.New(a.urls(), metaclient.WithPatience(patience)))
}

// asked says of addresses that are none that the command line is wrong.
func asked(c *metaclient.Client, err error) (*metaclient.Client, error) {
	if err != nil {
		return nil, &exitError{exitcode.Usage, err}
	}
	return c, nil
}

// logger writes to standard error: standard output is for results.
func (a *app) logger() *slog.Logger {
	o := &slog.HandlerOptions{Level: a.logLevel}
	if a.logFormat.value == "json" {
		return slog.New(slog.NewJSONHandler(a.err, o))
	}
	return slog.New(slog.NewTextHandler(a.err, o))
}
