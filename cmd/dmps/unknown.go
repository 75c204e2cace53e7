package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dmps/meta/metaclient"
	"dmps/raid"
)

// serverUnknownCommand lists what a server holds that the metadata does not know.
func (a *app) serverUnknownCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:   "unknown ID",
		Short: "List the chunks that a memory server holds and the metadata does not know",
		Long: `Lists the chunks that a memory server holds and that the metadata did not give out:
of which volume and group each is, as the server knows it, how much memory it takes,
and since when it is there.

They cannot be given back to a volume. The server does not know which column of its
group a chunk is, nor whether a newer one took its place later.`,
		Example:           "  dmps server unknown s3\n  dmps server unknown s3 --output json",
		Args:              exactArgs("ID"),
		ValidArgsFunction: a.completeNames(serverIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.list(cmd, output.value, "the metadata knows all that "+args[0]+" holds",
				func(ctx context.Context, m *metaclient.Client) (any, *table, error) {
					chunks, err := m.UnknownChunks(ctx, raid.ServerID(args[0]))
					return emptyNotNull(chunks), unknownTable(chunks, time.Now()), err
				})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func unknownTable(chunks []metaclient.UnknownChunk, now time.Time) *table {
	var t table
	t.row("CHUNK", "VOLUME", "GROUP", "MEMORY", "FOR")
	for _, c := range chunks {
		volume := c.Name
		switch {
		case c.Volume == 0:
			t.row(fmt.Sprint(c.Chunk), "not said yet", "-", "-", "-")
			continue
		case volume == "":
			volume = fmt.Sprintf("none has id %d", c.Volume)
		}
		t.row(fmt.Sprint(c.Chunk), volume, fmt.Sprint(c.Group), human(c.Bytes), span(now.Sub(c.Made)))
	}
	return &t
}
