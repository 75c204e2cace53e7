package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/bytesize"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
)

// Times of `rebuild --watch`.
const (
	rebuildSample = 500 * time.Millisecond // between two looks
	rebuildAgain  = 2 * time.Second        // until what could not be replaced is tried again
	rebuildLine   = 5 * time.Second        // between two lines, where no terminal is
	// rebuildStuck is how long nothing may be filled while members cannot be
	// replaced, before it says so and gives up.
	rebuildStuck = 10 * time.Second
)

func (a *app) rebuildCommand() *cobra.Command {
	var (
		output choice
		watch  bool
		rate   bytesize.Size
	)
	cmd := &cobra.Command{
		Use:     "rebuild VOLUME",
		Short:   "Restore a volume's redundancy now, and watch it",
		GroupID: groupManage,
		Long: `Has the members of a volume that are on servers which are down, or do not answer
at the moment, replaced at once, without waiting for the grace period; fills what
members miss; and says how far it is. Without failures it does nothing.

A server that is given up so and comes back later is new capacity: what it held
of this volume is dropped. A group of which fewer than K members are there is left
alone: it waits for its servers.

--rate bounds what all servers together read from each other for this volume, in
bytes a second, until its client ends; 0 is no limit. Without it the present rate
stays. The foreground guard (dmps attach --rebuild-guard) holds back within it.

Exit codes: 0 the volume is whole, 2 not yet, or it cannot be at the moment,
3 it has lost data or cannot be written.`,
		Example: `  dmps rebuild swap0
  dmps rebuild swap0 --watch
  dmps rebuild swap0 --rate 200MiB --watch
  dmps rebuild swap0 --watch --output json   # one object a line until it is whole`,
		Args:              exactArgs("VOLUME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			r := &rebuildRun{app: a, meta: meta, volume: args[0], json: output.value == "json", p: paletteFor(a.out)}
			if cmd.Flags().Changed("rate") {
				r.rate = &rate
			}
			return r.run(cmd.Context(), watch)
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "stay until the volume is whole, and show how far it is")
	cmd.Flags().Var(&rate, "rate", "bytes a second that the rebuild may take from now on; 0: no limit")
	noCompletion(cmd, "rate")
	return cmd
}

// rebuildRun is one `dmps rebuild`.
type rebuildRun struct {
	*app
	meta   *metaclient.Client
	volume string
	rate   *bytesize.Size // nil: as it is
	json   bool
	p      palette

	replaced uint64 // members, in all
	last     string // line that was printed
	printed  time.Time
}

// rebuildSampleOut is one object of --output json.
type rebuildSampleOut struct {
	At       time.Time    `json:"at"`
	Replaced uint64       `json:"replaced_members"` // by this command so far
	Waiting  uint64       `json:"waiting_members"`
	Stuck    uint64       `json:"stuck_members"`
	Reason   string       `json:"stuck_reason,omitempty"`
	Whole    bool         `json:"whole"`
	Volume   volumeStatus `json:"volume"`
}

func (r *rebuildRun) run(ctx context.Context, watch bool) error {
	answer, v, err := r.order(ctx, r.rate)
	if err != nil {
		return err
	}
	if !watch {
		return r.once(answer, v)
	}
	return r.watch(ctx, answer, v)
}

// order has replaced what can be, wakes the client, and looks.
func (r *rebuildRun) order(ctx context.Context, rate *bytesize.Size) (metaclient.RebuildAnswer, volumeStatus, error) {
	answer, err := r.meta.Rebuild(ctx, r.volume)
	if err != nil {
		return answer, volumeStatus{}, err
	}
	r.replaced += answer.Replaced
	l := answer.Volume.Lease
	switch {
	case l == nil || l.AdminURL == "":
		if rate != nil {
			return answer, volumeStatus{}, fmt.Errorf("volume %s has no client that could be told a rate: set it with dmps attach --rebuild-rate", r.volume)
		}
	default:
		if err := orderRebuild(ctx, l.AdminURL, rate); err != nil {
			if rate != nil {
				return answer, volumeStatus{}, err
			}
			// It hears of the new layout with its next renewal all the same.
			fmt.Fprintf(r.err, "the client was not woken: %v\n", err)
		}
	}
	return answer, liveStatus(ctx, answer.Volume), nil
}

// whole reports whether nothing is left to be done.
func whole(v *volumeStatus) bool {
	return v.State == client.StateHealthy && v.Rebuilding == 0 && v.DegradedGroups == 0 && (v.Report == nil || v.Report.Rebuild == nil)
}

// lostPages is how many pages answer with an error.
func lostPages(v *volumeStatus) uint64 {
	if v.Report == nil {
		return 0
	}
	return v.Report.LostPages
}

// failedBeside reports whether a volume were failed also if no unknown pages were gone:
// data is out of reach, or cannot be written.
func failedBeside(v *volumeStatus) bool {
	if v.State != client.StateFailed || v.Unknown == 0 {
		return v.State == client.StateFailed
	}
	r := v.Report
	return outOfReach(&v.Volume) || r != nil && r.State == client.StateFailed && r.Beside == ""
}

func (r *rebuildRun) once(answer metaclient.RebuildAnswer, v volumeStatus) error {
	if r.json {
		if err := printJSON(r.out, r.sample(answer, v)); err != nil {
			return err
		}
		return rebuildExit(&v)
	}
	for _, line := range append(rebuildDone(answer, &v), rebuildSummary(answer, &v, time.Now())...) {
		if _, err := fmt.Fprintln(r.out, line); err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
	}
	return rebuildExit(&v)
}

func (r *rebuildRun) sample(answer metaclient.RebuildAnswer, v volumeStatus) rebuildSampleOut {
	return rebuildSampleOut{
		At: time.Now().UTC(), Replaced: r.replaced, Waiting: answer.Waiting, Stuck: answer.Stuck, Reason: answer.StuckReason,
		Whole: whole(&v), Volume: v,
	}
}

// rebuildExit is the exit code. The output has said why.
func rebuildExit(v *volumeStatus) error {
	switch {
	case whole(v):
		return nil
	case v.State == client.StateFailed:
		return &exitError{code: exitcode.Lost}
	}
	return &exitError{code: exitcode.Degraded}
}

// rebuildDone says what the order brought about.
func rebuildDone(answer metaclient.RebuildAnswer, v *volumeStatus) []string {
	var lines []string
	if answer.Replaced > 0 {
		given := ""
		if len(answer.Suspect) > 0 {
			given = ", without waiting for " + joinIDs(answer.Suspect)
		}
		lines = append(lines, fmt.Sprintf("%s: %s to be replaced%s", v.Name, count(answer.Replaced, "member"), given))
	}
	if answer.Waiting > 0 {
		lines = append(lines, fmt.Sprintf("%s: %s more to be replaced when others are filled", v.Name, count(answer.Waiting, "member")))
	}
	return lines
}

// rebuildSummary says how it is, what goes on, and what to do.
func rebuildSummary(answer metaclient.RebuildAnswer, v *volumeStatus, now time.Time) []string {
	if whole(v) {
		return []string{fmt.Sprintf("%s: whole, can lose %s", v.Name, count(v.RedundancyLeft, "server"))}
	}
	lines := rebuildTrouble(answer, v)
	switch {
	case v.Report != nil && v.Report.Rebuild != nil:
		return append(lines, fmt.Sprintf("%s: %s", v.Name, rebuildProgress(v, now)))
	case v.Lease != nil && v.Rebuilding == 0 && v.Report != nil && len(v.Report.Suspect) > 0 && answer.Replaced == 0 && answer.Stuck == 0:
		return append(lines, fmt.Sprintf("%s: the client has no answer from %s, but the metadata service heard of it moments ago: try again in some seconds, or use --watch",
			v.Name, joinIDs(v.Report.Suspect)))
	}
	return lines
}

// rebuildTrouble says what keeps the volume from being whole, and what to do.
func rebuildTrouble(answer metaclient.RebuildAnswer, v *volumeStatus) []string {
	var lines []string
	say := func(format string, a ...any) { lines = append(lines, fmt.Sprintf(format, a...)) }
	if v.Unknown > 0 {
		say("%s", unknownLine(&v.Volume))
	}
	switch {
	case lostPages(v) > 0:
		say("%s: %s lost: more members were gone at a time than the redundancy can bear. Reading them gives an error until they are written again", v.Name, count(lostPages(v), "page"))
	case failedBeside(v):
		say("%s: data is out of reach, or cannot be written, until servers come back", v.Name)
	}
	switch {
	case v.Gone:
		say("%s: its client is gone. What members miss is filled as soon as a client attaches it, or a server takes that on", v.Name)
	case v.Report != nil && v.Report.Rebuild != nil: // it goes on
	case v.Lease == nil:
		say("%s: is not attached. What replacements miss is filled as soon as a client attaches it, or a server takes that on", v.Name)
	case v.Rebuilding > 0:
		say("%s: %s to be filled as soon as the client begins", v.Name, count(v.Rebuilding, "replacement"))
	}
	if answer.Stuck > 0 {
		say("%s: %s cannot be replaced: %s", v.Name, count(answer.Stuck, "member"), answer.StuckReason)
		say("%s", stuckAdvice(answer.StuckReason))
	}
	return lines
}

// stuckAdvice is what to do about members that cannot be replaced.
func stuckAdvice(reason string) string {
	switch {
	case strings.Contains(reason, "waits for the servers"):
		return "'dmps server list' shows which are away. If their processes live (frozen, or cut off), wake or reconnect them: a server that is restarted is empty."
	case strings.Contains(reason, "may hold the last copies"):
		return "'dmps server list' shows which servers are away, and since when."
	case strings.Contains(reason, "what it held is gone"):
		return "Its pages answer with an error. 'dmps volume delete' gives the memory back."
	}
	text := "Start another one on another host, rack or zone, whichever the volume keeps apart, with 'dmps server --memory SIZE' and true labels, or free memory on the servers that are there; 'dmps server list' shows what they lend."
	if strings.Contains(reason, "being drained") {
		text += " 'dmps server undrain ID' lets one that is drained take chunks again."
	}
	return text
}

// watch looks until the volume is whole, or nothing can be done.
func (r *rebuildRun) watch(ctx context.Context, answer metaclient.RebuildAnswer, v volumeStatus) error {
	began, ordered, moved := time.Now(), time.Now(), time.Now()
	tick := time.NewTicker(rebuildSample)
	defer tick.Stop()
	for first := true; ; first = false {
		now := time.Now()
		filling := v.Report != nil && v.Report.Rebuild != nil && !blocked(&v)
		if filling || answer.Stuck == 0 {
			moved = now
		}
		if err := r.show(answer, v, now, first); err != nil {
			return err
		}
		switch {
		case whole(&v):
			after := " after " + span(now.Sub(began))
			if first {
				after = ""
			}
			return r.end(&v, fmt.Sprintf("%s: whole%s, can lose %s", v.Name, after, count(v.RedundancyLeft, "server")))
		case (lostPages(&v) > 0 || v.Unknown > 0) && !filling && (v.Rebuilding == 0 || blocked(&v) && len(v.Report.Suspect) == 0):
			rest := rebuildSummary(answer, &v, now)
			if first { // show has said what keeps it from being whole
				rest = rest[len(rebuildTrouble(answer, &v)):]
			}
			return r.end(&v, strings.Join(rest, "\n"))
		case now.Sub(moved) > rebuildStuck:
			return r.end(&v, strings.Join(rebuildSummary(answer, &v, now), "\n"))
		}
		select {
		case <-ctx.Done():
			return r.end(&v, v.Name+": goes on without being watched")
		case <-tick.C:
		}
		var err error
		before := v.Lease
		if now.Sub(ordered) > rebuildAgain {
			ordered = now
			var again metaclient.RebuildAnswer
			var seen volumeStatus
			if again, seen, err = r.order(ctx, nil); err == nil {
				answer, v = again, seen
			}
		} else {
			v, err = r.look(ctx, v)
		}
		switch {
		case ctx.Err() != nil:
		case err == nil && before != nil && v.Lease != nil && before.Epoch != v.Lease.Epoch:
			r.clear()
			fmt.Fprintf(r.err, "%s has another client, %s: it counts anew from what is left\n", v.Name, v.Lease.Holder)
		case errors.Is(err, client.ErrNoQuorum):
			r.clear()
			fmt.Fprintf(r.err, "the rebuild goes on, but the metadata service does not answer: %v\n", err)
		case err != nil:
			r.clear()
			return err
		}
	}
}

func (r *rebuildRun) look(ctx context.Context, last volumeStatus) (volumeStatus, error) {
	v, _, err := r.meta.Volume(ctx, r.volume)
	if err != nil {
		return last, err
	}
	return liveStatus(ctx, v), nil
}

// show prints a sample: a line that is drawn anew on a terminal, else a new
// line now and then.
func (r *rebuildRun) show(answer metaclient.RebuildAnswer, v volumeStatus, now time.Time, first bool) error {
	if r.json {
		return printLine(r.out, r.sample(answer, v))
	}
	if first && !whole(&v) { // the rest is the line that follows, or the end
		for _, line := range append(rebuildDone(answer, &v), rebuildTrouble(answer, &v)...) {
			if _, err := fmt.Fprintln(r.out, line); err != nil {
				return fmt.Errorf("writing the result: %w", err)
			}
		}
	}
	if v.Report == nil || v.Report.Rebuild == nil {
		return nil
	}
	columns, _ := termSize(r.out)
	line := v.Name + ": " + rebuildProgress(&v, now)
	if columns > 0 {
		r.last = line
		_, err := fmt.Fprint(r.out, termLine+clip(line, columns-1))
		return err
	}
	if first || now.Sub(r.printed) < rebuildLine {
		return nil
	}
	r.printed = now
	_, err := fmt.Fprintln(r.out, line)
	return err
}

// clear takes the line away that show has drawn.
func (r *rebuildRun) clear() {
	if r.last != "" {
		fmt.Fprint(r.out, termLine)
		r.last = ""
	}
}

func (r *rebuildRun) end(v *volumeStatus, text string) error {
	if !r.json {
		r.clear()
		if text != "" {
			text += "\n"
		}
		if _, err := fmt.Fprint(r.out, text); err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
	}
	return rebuildExit(v)
}

// printLine writes v as one line of JSON.
func printLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
