package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/jitter"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// Waits of `events -f`.
const (
	eventsWait = 20 * time.Second // of one question
	eventsRest = time.Second      // after nobody answered
)

func (a *app) eventsCommand() *cobra.Command {
	var (
		output choice
		follow bool
		since  eventsSince
		last   int
		keep   eventFilter
	)
	cmd := &cobra.Command{
		Use:     "events",
		Short:   "Tell what happened, and why",
		GroupID: groupManage,
		Long: `Tells what the metadata service noted: servers that went and came, members that
were lost, replaced, moved and rebuilt, volumes that changed hands, who cared for
those that nobody had attached. It keeps the newest 4096. Times are by the clock of the node that led.

With --output json each event is an object on a line of its own. --follow goes on
when the leader changes or nobody answers for a while, which it says on standard
error; no event is told twice.`,
		Example: `  dmps events
  dmps events -f
  dmps events --since 1h --volume swap0
  dmps events --since 4711 --output json   # what came after number 4711
  dmps events -f --output json | jq -r 'select(.kind == "server-down") | .server'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			meta, err := a.metaSoon(cmd)
			if err != nil {
				return err
			}
			defer meta.Close()
			e := &eventsRun{app: a, meta: meta, json: output.value == "json", keep: keep}
			if since.set {
				last = 0
			}
			return e.run(cmd.Context(), since, last, follow)
		},
	}
	outputFlag(cmd, &output)
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "wait for more, until interrupted")
	f.Var(&since, "since", "after the event with this number, or not older than a time such as 90s, 10m, 2h")
	f.IntVarP(&last, "last", "n", 50, "without --since: this `number` of the newest; 0: all")
	f.StringVar(&keep.volume, "volume", "", "only about the volume `NAME`, or members of many volumes")
	f.StringVar(&keep.server, "server", "", "only about the server `ID`")
	noCompletion(cmd, "since", "last")
	complete(cmd, "volume", a.completeFlag(volumeNames))
	complete(cmd, "server", a.completeFlag(serverIDs))
	return cmd
}

// completeFlag is completeNames for the value of a flag.
func (a *app) completeFlag(list func(context.Context, *metaclient.Client) ([]string, error)) cobra.CompletionFunc {
	names := a.completeNames(list)
	return func(cmd *cobra.Command, _ []string, to string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return names(cmd, nil, to)
	}
}

// eventsSince is a number of an event or an age.
type eventsSince struct {
	set bool
	seq uint64
	age time.Duration
}

func (s *eventsSince) String() string {
	switch {
	case !s.set:
		return ""
	case s.age > 0:
		return s.age.String()
	}
	return strconv.FormatUint(s.seq, 10)
}
func (s *eventsSince) Type() string { return "SEQ|TIME" }
func (s *eventsSince) Set(text string) error {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		*s = eventsSince{set: true, seq: n}
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("use the number of an event, or a time such as 10m")
	}
	*s = eventsSince{set: true, age: d}
	return nil
}

// eventFilter says which events are wanted.
type eventFilter struct{ volume, server string }

// wants takes what befell members of many volumes at once for any of them.
func (f eventFilter) wants(e *metaclient.Event) bool {
	many := e.Volume == "" && strings.HasPrefix(e.Kind, "members-")
	return (f.volume == "" || f.volume == e.Volume || many) && (f.server == "" || raid.ServerID(f.server) == e.Server)
}

// check refuses names that nobody knows. What was deleted may have events still, and is
// not looked for then.
func (f eventFilter) check(ctx context.Context, meta *metaclient.Client) error {
	if f.volume != "" {
		if _, _, err := meta.Volume(ctx, f.volume); err != nil {
			return err
		}
	}
	if f.server == "" {
		return nil
	}
	servers, err := meta.Servers(ctx)
	if err == nil && !slices.ContainsFunc(servers, func(s metaclient.Server) bool { return s.ID == raid.ServerID(f.server) }) {
		err = fmt.Errorf("server %s: %w", f.server, metaclient.ErrNotFound)
	}
	return err
}

// eventsRun is one `dmps events`.
type eventsRun struct {
	*app
	meta *metaclient.Client
	json bool
	keep eventFilter
}

func (r *eventsRun) run(ctx context.Context, since eventsSince, last int, follow bool) error {
	var events []metaclient.Event
	seq := since.seq
	for {
		page, err := r.meta.Events(ctx, seq, 0)
		if err != nil {
			if !follow || !errors.Is(err, client.ErrNoQuorum) {
				return err
			}
			// What is there will be told when somebody answers.
			return r.follow(ctx, seq, since.age)
		}
		if since.set && since.age == 0 {
			r.tellMissed(page.Missed)
		}
		events = append(events, page.Events...)
		if len(page.Events) == 0 {
			seq = min(seq, page.Last) // a cluster that was restored from a backup
			break
		}
		if seq = page.Events[len(page.Events)-1].Seq; seq >= page.Last {
			break
		}
	}
	now := time.Now()
	events = slices.DeleteFunc(events, func(e metaclient.Event) bool { return !r.keep.wants(&e) })
	if len(events) == 0 {
		if err := r.keep.check(ctx, r.meta); err != nil {
			return err
		}
	}
	events = slices.DeleteFunc(events, func(e metaclient.Event) bool { return since.age > 0 && now.Sub(e.At) > since.age })
	if last > 0 && len(events) > last {
		events = events[len(events)-last:]
	}
	if err := r.print(events); err != nil {
		return err
	}
	if !follow {
		if len(events) == 0 {
			fmt.Fprintln(r.err, "no such events are kept")
		}
		return nil
	}
	return r.follow(ctx, seq, 0)
}

// follow prints what comes after an event, until ctx ends.
func (r *eventsRun) follow(ctx context.Context, seq uint64, age time.Duration) error {
	silent := false
	begun := time.Now()
	for {
		page, err := r.meta.Events(ctx, seq, eventsWait)
		switch {
		case ctx.Err() != nil:
			return nil // it was told to end
		case errors.Is(err, client.ErrNoQuorum):
			if !silent {
				fmt.Fprintf(r.err, "nobody tells events at the moment, trying again: %v\n", err)
			}
			silent = true
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(jitter.Around(eventsRest)):
			}
			continue
		case err != nil:
			return err
		}
		if silent {
			fmt.Fprintln(r.err, "the metadata service answers again")
			silent = false
		}
		r.tellMissed(page.Missed)
		var events []metaclient.Event
		for _, e := range page.Events {
			if r.keep.wants(&e) && (age == 0 || begun.Sub(e.At) <= age) {
				events = append(events, e)
			}
		}
		if err := r.print(events); err != nil {
			return err
		}
		switch n := len(page.Events); {
		case n > 0:
			seq = page.Events[n-1].Seq
		case page.Last < seq:
			fmt.Fprintln(r.err, "the metadata was restored from a backup: numbers of events begin anew")
			seq = page.Last
		}
	}
}

func (r *eventsRun) tellMissed(n uint64) {
	if n > 0 {
		fmt.Fprintf(r.err, "%d older events are not kept any more\n", n)
	}
}

func (r *eventsRun) print(events []metaclient.Event) error {
	p := paletteFor(r.out)
	for i := range events {
		var err error
		if r.json {
			err = printLine(r.out, &events[i])
		} else {
			_, err = fmt.Fprintln(r.out, eventLine(&events[i], p))
		}
		if err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
	}
	return nil
}

// eventLine is an event for people, on one line.
func eventLine(e *metaclient.Event, p palette) string {
	at := "time unknown       "
	if !e.At.IsZero() {
		at = e.At.Local().Format(time.DateTime)
	}
	return fmt.Sprintf("%6d  %s  %s  %s", e.Seq, at, p.paint(eventColour(e.Kind), fmt.Sprintf("%-18s", printable(e.Kind))), printable(e.Text))
}

// eventColour tells good news from bad by what kinds are called.
func eventColour(kind string) string {
	switch kind {
	case "server-down", "members-lost", "members-stuck", "server-restarted":
		return colourBad
	case "server-suspect", "server-short", "scrub-incomplete", "moves-given-up", "volume-taken-over", "members-replaced", "members-behind", "members-elsewhere":
		return colourWarn
	case "server-up", "server-joined", "server-relieved", "server-drained", "members-rebuilt", "members-moved", "rebalance-ended":
		return colourGood
	}
	return ""
}
