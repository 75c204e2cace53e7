package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	var force bool
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Forget a memory server that will not come back",
		Long: `Forgets a memory server. One that holds chunks of volumes is refused unless
forced; forced, the groups with a chunk on it have lost that member for good.`,
		Example:           "  dmps server remove s3\n  dmps server remove s3 --force",
		Args:              exactArgs("ID"),
		ValidArgsFunction: a.completeNames(serverIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			lost, err := meta.RemoveServer(cmd.Context(), raid.ServerID(args[0]), force)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "removed %s; %d groups lost a member with it\n", args[0], lost)
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove it although it holds chunks of volumes")
	return cmd
}

// labelText prints labels in the form that --label reads, sorted.
func labelText(labels map[string]string) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		s = append(s, k+"="+labels[k])
	}
	return strings.Join(s, " ")
}
