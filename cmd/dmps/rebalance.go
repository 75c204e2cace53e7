package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// percentFlag is a pflag.Value: 5 and 5% are the same.
type percentFlag int

func (p *percentFlag) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.Itoa(int(*p)) + "%"
}
func (p *percentFlag) Type() string { return "percent" }
func (p *percentFlag) Set(s string) error {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(s), "%"))
	if err != nil || n < 1 || n > 100 {
		return errors.New("must be 1% to 100%")
	}
	*p = percentFlag(n)
	return nil
}

func (a *app) rebalanceCommand() *cobra.Command {
	var (
		output    choice
		threshold percentFlag
		stop      bool
		watch     bool
	)
	cmd := &cobra.Command{
		Use:     "rebalance",
		Short:   "Even out how full the memory servers are",
		GroupID: groupManage,
		Long: `Moves members of groups from the fullest memory servers to the emptiest, for
example after servers were added. It ends by itself when the fullest and the
emptiest differ by at most --threshold of their memory. Nothing loses redundancy
meanwhile, and failure domains are kept: servers may stay uneven for that.

The command returns at once; with --watch it shows how far it is and returns when
it is done. Interrupting it does not end the moving; --stop does, after the moves
that have begun.`,
		Example: `  dmps rebalance --watch
  dmps rebalance --threshold 10%
  dmps rebalance --stop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stop && (watch || threshold != 0) {
				return usageError("--stop ends it: --threshold and --watch mean nothing there")
			}
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			ctx := cmd.Context()
			if stop {
				err = meta.StopRebalance(ctx)
			} else {
				err = meta.Rebalance(ctx, int(threshold))
			}
			if err != nil {
				return err
			}
			b, err := balanceOf(ctx, meta)
			if err != nil {
				return err
			}
			if watch && !b.done() {
				if b, err = a.followBalance(ctx, meta, b); err != nil {
					return err
				}
			}
			if output.value == "json" {
				return printJSON(a.out, b)
			}
			return b.print(a.out)
		},
	}
	outputFlag(cmd, &output)
	f := cmd.Flags()
	f.Var(&threshold, "threshold", "how much the fullest and the emptiest server may differ (default 5%)")
	f.BoolVar(&stop, "stop", false, "end it; moves that have begun go on")
	f.BoolVarP(&watch, "watch", "w", false, "show the progress, and return when it is done")
	noCompletion(cmd, "threshold")
	return cmd
}

// balance is how even the servers are, and what is done about it.
type balance struct {
	Rebalancing bool          `json:"rebalancing"`
	Threshold   int           `json:"threshold_percent,omitempty"`
	Moved       uint64        `json:"moved_members"` // since it began
	Moving      uint64        `json:"moving"`        // members whose replacement is being filled
	RowsLeft    uint64        `json:"rows_left"`     // that replacements do not have yet, as their clients last reported
	Fullest     serverShare   `json:"fullest"`
	Emptiest    serverShare   `json:"emptiest"`
	Stuck       []stuckVolume `json:"stuck"`
	Idle        []string      `json:"unattached"` // volumes with members to be filled that nobody has attached
}

// serverShare is how full a server is.
type serverShare struct {
	Server  raid.ServerID `json:"server"`
	Percent float64       `json:"percent"` // of its memory that is promised to volumes
}

func balanceOf(ctx context.Context, meta *metaclient.Client) (balance, error) {
	st, err := meta.Status(ctx)
	if err != nil {
		return balance{}, err
	}
	return balanceFrom(st), nil
}

func balanceFrom(st *metaclient.Status) balance {
	m := movesOf(st)
	b := balance{Moving: m.moving, RowsLeft: m.rows, Stuck: m.stuck, Idle: m.idle}
	if r := st.Rebalancing; r != nil {
		b.Rebalancing, b.Threshold, b.Moved = true, r.Threshold, r.Moved
	}
	for _, s := range st.Servers {
		if s.State != metaclient.ServerUp || s.MemoryTotal == 0 {
			continue
		}
		share := serverShare{s.ID, 100 * float64(s.MemoryReserved) / float64(s.MemoryTotal)}
		if b.Fullest.Server == "" || share.Percent > b.Fullest.Percent {
			b.Fullest = share
		}
		if b.Emptiest.Server == "" || share.Percent < b.Emptiest.Percent {
			b.Emptiest = share
		}
	}
	return b
}

// done reports that nothing moves any more, nor will.
func (b balance) done() bool { return !b.Rebalancing && b.Moving == 0 }

func (b balance) moves() moves { return moves{b.Moving, b.RowsLeft, b.Stuck, b.Idle} }

func (b balance) print(w io.Writer) error {
	var s strings.Builder
	if b.Fullest.Server != "" {
		fmt.Fprintf(&s, "fullest: %s with %.0f %%, emptiest: %s with %.0f %%\n", b.Fullest.Server, b.Fullest.Percent, b.Emptiest.Server, b.Emptiest.Percent)
	}
	switch {
	case b.Rebalancing:
		fmt.Fprintf(&s, "evening out to %d %%: %d members moved or on their way, %d of them still being filled\nfollow it with: dmps rebalance --watch\n", b.Threshold, b.Moved, b.Moving)
	case b.Moving > 0:
		fmt.Fprintf(&s, "no more moves begin; %d members are still on their way\n", b.Moving)
	default:
		fmt.Fprintln(&s, "nothing is being moved")
	}
	for _, line := range b.moves().troubles() {
		fmt.Fprintln(&s, line)
	}
	_, err := io.WriteString(w, s.String())
	return err
}

// followBalance shows the moves until there are none.
func (a *app) followBalance(ctx context.Context, meta *metaclient.Client, b balance) (balance, error) {
	f := a.follow("rebalance", "", 0) // nobody knows how many moves it takes
	defer f.close()
	said := ""
	for {
		line := fmt.Sprintf("%d members moved or on their way, %d being filled (%d rows left); fullest %s %.0f %%, emptiest %s %.0f %%",
			b.Moved, b.Moving, b.RowsLeft, b.Fullest.Server, b.Fullest.Percent, b.Emptiest.Server, b.Emptiest.Percent)
		if line != said {
			f.view.say(line)
			said = line
		}
		f.show(0, b.moves())
		if err := pause(ctx, followEvery); err != nil {
			return b, fmt.Errorf("the rebalancing goes on, 'dmps rebalance --stop' ends it: %w", err)
		}
		next, err := balanceOf(ctx, meta)
		switch {
		case errors.Is(err, client.ErrNoQuorum):
			f.trouble("the metadata service does not decide at the moment: waiting for it")
			continue
		case err != nil:
			return b, err
		}
		if next.Moved == 0 {
			next.Moved = b.Moved // the service forgets it with the end
		}
		if b = next; b.done() {
			return b, nil
		}
	}
}
