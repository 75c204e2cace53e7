package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// What a volume has lost for good, and which command goes on from there.

// goneLines says so of a volume in status.
func goneLines(v *volumeStatus) (lines []string) {
	attached := v.Lease != nil && !v.Lease.Care && (v.Live || v.Lease.Remaining > 0)
	switch {
	case v.BereftGroups == 0:
	case attached:
		lines = append(lines, fmt.Sprintf("%s has lost more than it can bear in %d of %d groups: pages that are gone answer with an error until they are written anew or trimmed",
			v.Name, v.BereftGroups, v.Groups))
	case v.EmptyGroups > 0:
		lines = append(lines, fmt.Sprintf("%s has nothing left of %d of %d groups: what they held is gone. %s", v.Name, v.EmptyGroups, v.Groups, anewAdvice(v.Name)))
	default:
		lines = append(lines, fmt.Sprintf("%s has lost more than it can bear in %d of %d groups: %s", v.Name, v.BereftGroups, v.Groups, acceptAdvice(v.Name)))
	}
	if v.Unknown > 0 {
		lines = append(lines, unknownLine(&v.Volume))
	}
	return lines
}

// unknownLine says that pages are gone of which nobody knows which, and which command
// goes on.
func unknownLine(v *metaclient.Volume) string {
	since := ""
	if !v.UnknownSince.IsZero() {
		since = " since " + v.UnknownSince.Local().Format(time.DateTime)
	}
	return fmt.Sprintf("%s misses up to %s%s, and nobody knows which: they read as zeros, and others perhaps as older versions. When what uses it has been seen to: dmps volume accept-loss %s",
		v.Name, count(v.Unknown, "page"), since, v.Name)
}

func acceptAdvice(volume string) string {
	return fmt.Sprintf("'dmps attach %s --accept-data-loss' serves what can still be read.", volume)
}

func anewAdvice(volume string) string {
	return fmt.Sprintf("Delete the volume and create it again: dmps volume delete %s; dmps volume create %s ...", volume, volume)
}

// lossAdvice adds to the error of a volume that cannot be opened what cannot be read of
// it, if that is so, and which command goes on.
func lossAdvice(err error, l *raid.Layout, s stakes, accepted bool) error {
	if l.FirstEpoch || l.Kind != raid.LayoutLog || errors.Is(err, client.ErrFenced) || accepted && s.empty == 0 {
		return err
	}
	lines := s.lines(time.Now())
	switch {
	case s.empty > 0:
		lines = append(lines, anewAdvice(l.Name))
	case s.bereft > 0:
		lines = append(lines, acceptAdvice(l.Name))
	case s.unreadable == 0:
		return err
	default:
		lines = append(lines, "If they cannot come back so: "+acceptAdvice(l.Name))
	}
	return &advised{err, strings.Join(lines, "\n")}
}

// serversNow are the memory servers as the metadata service knows them; nil if it does
// not answer soon.
func serversNow(ctx context.Context, meta *metaclient.Client) []metaclient.Server {
	ctx, cancel := context.WithTimeout(ctx, soonPatience)
	defer cancel()
	servers, err := meta.Servers(ctx)
	if err != nil {
		return nil
	}
	return servers
}

// askLoss asks whoever attaches with --accept-data-loss, and says what is at stake; to
// those who said --yes as well.
func (f *attachFlags) askLoss(ctx context.Context, a *app, meta *metaclient.Client, volume string) error {
	if !f.accept {
		return nil
	}
	deed := fmt.Sprintf("attach volume %s and give up what cannot be read of it", volume)
	if !f.agreed.given && !isTerminal(a.in) {
		return f.agreed.ask(a, deed) // refuses
	}
	lines, err := atStake(ctx, meta, volume)
	switch {
	case f.agreed.given:
		for _, line := range lines {
			fmt.Fprintln(a.err, line)
		}
		return nil
	case err != nil:
		return err
	}
	return f.agreed.ask(a, deed, lines...)
}

// atStake says what is given up of a volume whose loss is accepted.
func atStake(ctx context.Context, meta *metaclient.Client, volume string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, soonPatience)
	defer cancel()
	v, layout, err := meta.Volume(ctx, volume)
	if err != nil {
		return nil, err
	}
	servers, err := meta.Servers(ctx)
	if err != nil {
		return nil, err
	}
	if v.Report == nil {
		return []string{"No client has opened it yet: there is nothing to lose."}, nil
	}
	s := stakesOf(layout, servers)
	return s.consequences(&v, time.Now()), nil
}

// consequences says what follows from accepting a loss.
func (s *stakes) consequences(v *metaclient.Volume, now time.Time) []string {
	lines := s.lines(now)
	if s.unreadable == 0 {
		lines = append(lines, "Every group can be read in full with the servers that are up, as far as the metadata service knows, which notices after some seconds that one is away: attach it without --accept-data-loss first.")
	}
	lines = append(lines,
		"What only servers hold that are away, or that this machine cannot reach, is given up for good: bring them back first if you can.",
		fmt.Sprintf("Pages may be gone of which nobody knows which: they read as older versions or as zeros, and the volume is failed until 'dmps volume accept-loss %s'.", v.Name))
	if v.Unknown > 0 {
		lines = append(lines, unknownLine(v))
	}
	return lines
}

// nothingToAccept says how a volume is of which no unknown pages are gone, and what to
// do about that.
func nothingToAccept(v *volumeStatus) []string {
	lines := []string{fmt.Sprintf("%s is %s, and misses no unknown pages: nothing to accept", v.Name, v.State)}
	lines = append(lines, goneLines(v)...)
	n := lostPages(v)
	if n > 0 {
		lines = append(lines, fmt.Sprintf("%s of %s lost, and it is known which: reading them gives an error until they are written anew or trimmed", count(n, "page"), v.Name))
	}
	switch {
	case outOfReach(&v.Volume):
		lines = append(lines, fmt.Sprintf("data of %s is out of reach until servers come back: 'dmps server list' shows which are away. If their processes live (frozen, or cut off), wake or reconnect them: a server that is restarted is empty.", v.Name))
	case v.State == client.StateFailed && n == 0 && v.BereftGroups == 0:
		lines = append(lines, fmt.Sprintf("%s cannot be read in full, or not be written: 'dmps status' and 'dmps server list' show what is away", v.Name))
	case v.State == client.StateDegraded:
		lines = append(lines, fmt.Sprintf("'dmps rebuild %s --watch' restores its redundancy", v.Name))
	}
	return lines
}

func (a *app) volumeAcceptLossCommand() *cobra.Command {
	var agreed consent
	cmd := &cobra.Command{
		Use:   "accept-loss NAME",
		Short: "Accept that pages are gone of which nobody knows which they are",
		Long: `A volume that was attached with --accept-data-loss may miss pages of which not
even the numbers are known: they read as an older version, or as zeros. It is
FAILED until somebody says that whatever uses it has been seen to: a file system
was checked or restored, swap was taken off and made anew.

Nothing is repaired by this. Pages that are known to be lost still answer with an
error, and count, until they are written anew or trimmed.

When no unknown pages are gone it says how the volume is, and exits with 3 if it is
failed all the same.`,
		Example:           "  dmps volume accept-loss swap0",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			v, _, err := meta.Volume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if v.Unknown == 0 {
				s := liveStatus(cmd.Context(), v)
				if _, err := fmt.Fprintln(a.out, strings.Join(nothingToAccept(&s), "\n")); err != nil {
					return fmt.Errorf("writing the result: %w", err)
				}
				if s.State == client.StateFailed {
					return &exitError{code: exitcode.Lost}
				}
				return nil
			}
			deed := fmt.Sprintf("accept that up to %s of volume %s are gone, and nobody knows which", count(v.Unknown, "page"), v.Name)
			if err := agreed.ask(a, deed, "They read as older versions or as zeros. No command will tell of them any more."); err != nil {
				return err
			}
			pages, err := meta.AcceptLoss(cmd.Context(), v.Name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s: up to %s accepted as gone\n", v.Name, count(pages, "page"))
			return err
		},
	}
	agreed.flag(cmd)
	return cmd
}
