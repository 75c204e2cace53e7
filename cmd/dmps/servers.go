package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"dmps/meta/metaclient"
	"dmps/raid"
)

// serverListCommand and serverRemoveCommand ask the metadata service about
// memory servers; `dmps server` itself (server.go) is one.
func (a *app) serverListCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the memory servers that the metadata service knows",
		Example: "  dmps server list\n  dmps server list --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.list(cmd, output.value, "no memory servers; 'dmps server --help' says how to start one",
				func(ctx context.Context, m *metaclient.Client) (any, *table, error) {
					servers, err := m.Servers(ctx)
					return emptyNotNull(servers), serverTable(servers, paletteFor(a.out)), err
				})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// list prints what get finds, or none when there is nothing.
func (a *app) list(cmd *cobra.Command, output, none string, get func(context.Context, *metaclient.Client) (any, *table, error)) error {
	meta, err := a.meta()
	if err != nil {
		return err
	}
	defer meta.Close()
	v, t, err := get(cmd.Context(), meta)
	if err != nil {
		return err
	}
	if output == "json" {
		return printJSON(a.out, v)
	}
	if len(t.rows) < 2 {
		_, err := fmt.Fprintln(a.out, none)
		return err
	}
	return t.print(a.out)
}

func (a *app) serverRemoveCommand() *cobra.Command {
	var (
		output choice
		force  bool
		dry    bool
		yes    consent
	)
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Forget a memory server that will not come back",
		Long: `Forgets a memory server that was stopped. One that holds chunks of volumes is
refused unless forced, and the refusal says what each volume would lose; forced,
the groups with a chunk on it have lost that member for good. A server that is
up is refused in any case: it would register again. Drain it first, and stop it.

--dry-run only says what would be lost.`,
		Example: `  dmps server remove s3
  dmps server remove s3 --dry-run
  dmps server remove s3 --force --yes`,
		Args:              exactArgs("ID"),
		ValidArgsFunction: a.completeNames(serverIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			ctx, id := cmd.Context(), raid.ServerID(args[0])
			losses, err := meta.Losses(ctx, id)
			if err != nil {
				return err
			}
			r := serverRemoval{Server: id, Losses: emptyNotNull(losses)}
			if dry {
				return a.printRemoval(r, output.value)
			}
			// What is lost without a member is said before anything is done,
			// also to those who said --yes.
			lines := lossLines(losses)
			if force && len(losses) > 0 {
				for _, line := range lines {
					fmt.Fprintln(a.err, line)
				}
			}
			if force || len(losses) == 0 {
				if err := yes.ask(a, fmt.Sprintf("forget server %s for good", id), "Its process must have been stopped: a server that lives registers again."); err != nil {
					return err
				}
			}
			if r.LostMembers, err = meta.RemoveServer(ctx, id, force); err != nil {
				return removalAdvice(err, id)
			}
			r.Removed = true
			return a.printRemoval(r, output.value)
		},
	}
	outputFlag(cmd, &output)
	yes.flag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "remove it although it holds chunks of volumes")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what each volume would lose")
	return cmd
}

func (a *app) serverPurgeCommand() *cobra.Command {
	var (
		output choice
		yes    consent
	)
	cmd := &cobra.Command{
		Use:   "purge ID",
		Short: "Have a memory server give back what the metadata does not know",
		Long: `Has a memory server give back the chunks that it holds and that the metadata did
not give out ('unknown' in 'dmps server list'). They were given out by decisions
that a restored cluster has forgotten, or by another cluster. They are kept until
somebody says that nobody needs them: what they hold is gone then.`,
		Example:           "  dmps server purge s3\n  dmps server purge s3 --yes",
		Args:              exactArgs("ID"),
		ValidArgsFunction: a.completeNames(serverIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.meta()
			if err != nil {
				return err
			}
			defer m.Close()
			ctx, id := cmd.Context(), raid.ServerID(args[0])
			servers, err := m.Servers(ctx)
			if err != nil {
				return err
			}
			at := slices.IndexFunc(servers, func(s metaclient.Server) bool { return s.ID == id })
			if at < 0 {
				return fmt.Errorf("server %s: %w", id, metaclient.ErrNotFound)
			}
			p := serverPurge{Server: id}
			if n := servers[at].UnknownChunks; n > 0 {
				if err := yes.ask(a, fmt.Sprintf("have server %s give back %s that the metadata does not know", id, count(n, "chunk")),
					"What they hold is gone then, also if a volume of before the restore, or of another cluster, needs it."); err != nil {
					return err
				}
				if p.Chunks, err = m.PurgeUnknown(ctx, id); err != nil {
					return err
				}
			}
			if output.value == "json" {
				return printJSON(a.out, p)
			}
			if p.Chunks == 0 {
				_, err = fmt.Fprintf(a.out, "%s holds no chunks that the metadata does not know\n", id)
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s is told to give back: %s\n", id, count(p.Chunks, "unknown chunk"))
			return err
		},
	}
	outputFlag(cmd, &output)
	yes.flag(cmd)
	return cmd
}

// serverPurge is what came of a purge.
type serverPurge struct {
	Server raid.ServerID `json:"server"`
	Chunks uint64        `json:"chunks"` // that it is told to give back
}

// removalAdvice adds to a refused removal what to do instead.
func removalAdvice(err error, id raid.ServerID) error {
	switch {
	case errors.Is(err, metaclient.ErrIDInUse):
		return &advised{err, fmt.Sprintf("Move off what it holds with 'dmps server drain %s --wait', stop its process, then remove it.", id)}
	case errors.Is(err, metaclient.ErrHoldsChunks):
		return &advised{err, fmt.Sprintf("If it can come back as it was, bring it back and drain it: dmps server drain %s --wait. If its memory is gone, 'dmps status' shows whether its members are being replaced: then it holds nothing soon. --force gives them up now.", id)}
	}
	return err
}

// next says what to do after a removal, or instead of one; "" if there is nothing to do.
func (r *serverRemoval) next() string {
	switch {
	case len(r.Losses) == 0 && r.Removed:
		return ""
	case len(r.Losses) == 0:
		return fmt.Sprintf("stop its process, then forget it with: dmps server remove %s", r.Server)
	case !r.Removed:
		return fmt.Sprintf("while it is up, move off what it holds with: dmps server drain %s --wait\ngive it up with: dmps server remove %s --force", r.Server, r.Server)
	}
	var lines []string
	for _, l := range r.Losses {
		lines = append(lines, fmt.Sprintf("have it filled again on other servers, and see how far that is, with: dmps rebuild %s --watch", l.Volume))
	}
	return strings.Join(lines, "\n")
}

// serverRemoval is what came, or would come, of removing a server.
type serverRemoval struct {
	Server      raid.ServerID     `json:"server"`
	Removed     bool              `json:"removed"`
	LostMembers uint64            `json:"lost_members"` // of groups; 0 unless removed
	Losses      []metaclient.Loss `json:"losses"`       // of volumes
}

func (a *app) printRemoval(r serverRemoval, output string) error {
	if output == "json" {
		return printJSON(a.out, r)
	}
	lines := lossLines(r.Losses)
	if len(r.Losses) == 0 {
		lines = []string{fmt.Sprintf("nothing would be lost with %s", r.Server)}
	}
	if r.Removed {
		lost := "no group lost a member with it"
		if r.LostMembers > 0 {
			lost = "members lost with it: " + strconv.FormatUint(r.LostMembers, 10)
		}
		lines = []string{fmt.Sprintf("removed %s; %s", r.Server, lost)}
	}
	if next := r.next(); next != "" {
		lines = append(lines, next)
	}
	_, err := fmt.Fprintln(a.out, strings.Join(lines, "\n"))
	return err
}

// lossLines says what volumes lose with a server, one a line.
func lossLines(losses []metaclient.Loss) []string {
	var lines []string
	for _, l := range losses {
		switch {
		case l.GroupsLost > 0:
			lines = append(lines, fmt.Sprintf("volume %s loses %s, and with them the data of %s for good", l.Volume, count(l.Members, "member"), count(l.GroupsLost, "group")))
		case l.GroupsAway > 0:
			lines = append(lines, fmt.Sprintf("volume %s loses %s: the data of %s is gone for good unless servers that are away come back", l.Volume, count(l.Members, "member"), count(l.GroupsAway, "group")))
		case l.RedundancyLeft < 0:
			lines = append(lines, fmt.Sprintf("volume %s loses %s, and other members miss rows: wait until they are filled, or data may be out of reach", l.Volume, count(l.Members, "member")))
		case l.RedundancyLeft == 0:
			lines = append(lines, fmt.Sprintf("volume %s loses %s: no data, but the next loss in one of these groups loses some, until it is rebuilt", l.Volume, count(l.Members, "member")))
		default:
			lines = append(lines, fmt.Sprintf("volume %s loses %s: no data, and it can lose %d more", l.Volume, count(l.Members, "member"), l.RedundancyLeft))
		}
	}
	return lines
}

// labelText prints labels in the form that --label reads, sorted.
func labelText(labels map[string]string) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		s = append(s, k+"="+labels[k])
	}
	return strings.Join(s, " ")
}
