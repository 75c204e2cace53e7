package main

import (
	"context"
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
				return err
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
	if r.Removed {
		lost := "no group lost a member with it"
		if r.LostMembers > 0 {
			lost = "members lost with it: " + strconv.FormatUint(r.LostMembers, 10)
		}
		_, err := fmt.Fprintf(a.out, "removed %s; %s\n", r.Server, lost)
		return err
	}
	if len(r.Losses) == 0 {
		_, err := fmt.Fprintf(a.out, "nothing would be lost with %s\n", r.Server)
		return err
	}
	for _, line := range lossLines(r.Losses) {
		if _, err := fmt.Fprintln(a.out, line); err != nil {
			return err
		}
	}
	return nil
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
			lines = append(lines, fmt.Sprintf("volume %s loses %s: no data, and it survives %d further losses", l.Volume, count(l.Members, "member"), l.RedundancyLeft))
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
