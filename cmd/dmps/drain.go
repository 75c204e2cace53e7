package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// followEvery is how often a command that waits for moves looks at them.
const followEvery = time.Second

func (a *app) serverDrainCommand() *cobra.Command {
	var (
		output choice
		wait   bool
		watch  bool
	)
	cmd := &cobra.Command{
		Use:   "drain ID",
		Short: "Move everything off a memory server that still serves",
		Long: `Has every member of a group on this server moved to other servers, and no new
ones placed there. Nothing loses redundancy meanwhile: a member counts until the
one that takes its place holds everything. A drained server holds no chunks; it
can be stopped and removed without loss.

The command returns at once, and the draining goes on by itself. With --wait it
shows how far it is and returns when the server is drained. Interrupting it does
not end the draining; 'dmps server undrain' does.

Volumes of layout linear and striped have no redundancy and cannot be moved once
they were attached: the server stays until they are deleted.`,
		Example: `  dmps server drain s3 --wait && ssh s3 systemctl stop dmps-server && dmps server remove s3 --yes
  dmps server drain s3
  dmps server drain s3 --output json`,
		Args:              exactArgs("ID"),
		ValidArgsFunction: a.completeNames(serverIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			ctx, id := cmd.Context(), raid.ServerID(args[0])
			if err := meta.DrainServer(ctx, id); err != nil {
				return err
			}
			d, err := drainingOf(ctx, meta, id)
			if err != nil {
				return err
			}
			if (wait || watch) && !d.Drained {
				if d, err = a.followDrain(ctx, meta, d); err != nil {
					return err
				}
			}
			if output.value == "json" {
				return printJSON(a.out, d)
			}
			return d.print(a.out)
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&wait, "wait", false, "show the progress, and return when the server is drained")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "the same as --wait")
	return cmd
}

func (a *app) serverUndrainCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:   "undrain ID",
		Short: "End the draining of a memory server",
		Long: `Ends the draining of a server: moves that are not done are given up, what was
moved stays where it is, and new members may be placed on the server again.`,
		Example:           "  dmps server undrain s3",
		Args:              exactArgs("ID"),
		ValidArgsFunction: a.completeNames(serverIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			id := raid.ServerID(args[0])
			if err := meta.UndrainServer(cmd.Context(), id); err != nil {
				return err
			}
			d, err := drainingOf(cmd.Context(), meta, id)
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(a.out, d)
			}
			_, err = fmt.Fprintf(a.out, "%s is not drained any more; it holds %s\n", id, count(d.Chunks, "chunk"))
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// draining is how far a server is drained.
type draining struct {
	Server   raid.ServerID `json:"server"`
	State    string        `json:"state"`
	Draining bool          `json:"draining"`
	Drained  bool          `json:"drained"`    // it holds nothing
	Chunks   uint64        `json:"chunks"`     // members that it still has
	Unknown  uint64        `json:"unknown"`    // chunks that it holds and the metadata does not know: nobody moves them
	Moving   uint64        `json:"moving"`     // members, in the whole cluster, whose replacement is being filled
	RowsLeft uint64        `json:"rows_left"`  // that replacements do not have yet, as their clients last reported
	Stuck    []stuckVolume `json:"stuck"`      // volumes with members that should go somewhere and cannot
	Idle     []string      `json:"unattached"` // volumes with members to be filled that nobody has attached

	incarnation raid.Incarnation
}

// unknownLeft is all that a server has left when only chunks are there that the
// metadata does not know; nil: there is more, or nothing.
func (d draining) unknownLeft() error {
	if !d.Draining || d.Chunks > 0 || d.Unknown == 0 {
		return nil
	}
	return fmt.Errorf("%s that the metadata does not know cannot be moved, and end with the server", count(d.Unknown, "chunk"))
}

// stuckVolume says why members of a volume stay where they are.
type stuckVolume struct {
	Volume  string `json:"volume"`
	Members uint64 `json:"members"`
	Reason  string `json:"reason"`
}

// drainingOf asks how far a server is drained.
func drainingOf(ctx context.Context, meta *metaclient.Client, id raid.ServerID) (draining, error) {
	st, err := meta.Status(ctx)
	if err != nil {
		return draining{}, err
	}
	return drainingFrom(st, id)
}

func drainingFrom(st *metaclient.Status, id raid.ServerID) (draining, error) {
	d := draining{Server: id, Stuck: []stuckVolume{}, Idle: []string{}}
	found := false
	for _, s := range st.Servers {
		if s.ID == id {
			found = true
			d.State, d.Draining, d.Chunks, d.Unknown, d.incarnation = s.State, s.Draining, s.Chunks, s.UnknownChunks, s.Incarnation
		}
	}
	if !found {
		return draining{}, fmt.Errorf("server %s: %w: it was removed", id, metaclient.ErrNotFound)
	}
	d.Drained = d.Draining && d.Chunks == 0 && d.Unknown == 0
	m := movesOf(st)
	d.Moving, d.RowsLeft, d.Stuck, d.Idle = m.moving, m.rows, m.stuck, m.idle
	return d, nil
}

// moves is what is being moved and filled in the whole cluster.
type moves struct {
	moving uint64
	rows   uint64
	stuck  []stuckVolume
	idle   []string
}

func movesOf(st *metaclient.Status) moves {
	m := moves{stuck: []stuckVolume{}, idle: []string{}}
	for _, v := range st.Volumes {
		m.moving += v.Pending
		m.rows += v.RebuildRows
		if v.StuckMembers > 0 {
			m.stuck = append(m.stuck, stuckVolume{v.Name, v.StuckMembers, v.StuckReason})
		}
		if v.Pending > 0 && v.Lease == nil {
			m.idle = append(m.idle, v.Name)
		}
	}
	return m
}

// troubles says what keeps moves from going on, one reason a line.
func (m moves) troubles() []string {
	var lines []string
	for _, s := range m.stuck {
		lines = append(lines, fmt.Sprintf("volume %s: %s stuck: %s", s.Volume, count(s.Members, "member"), s.Reason), stuckAdvice(s.Reason))
	}
	for _, v := range m.idle {
		lines = append(lines, fmt.Sprintf("volume %s is not attached: its members move when a client attaches it, or a server takes that on", v))
	}
	return lines
}

func (d draining) moves() moves { return moves{d.Moving, d.RowsLeft, d.Stuck, d.Idle} }

// print says how it is, and what to do next.
func (d draining) print(w io.Writer) error {
	if d.Drained {
		_, err := fmt.Fprintf(w, "%s is drained: it holds nothing\nstop it, then forget it with: dmps server remove %s\nor, if it comes back, have it used again with: dmps server undrain %s\n", d.Server, d.Server, d.Server)
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is being drained: %s left\n", d.Server, count(d.Chunks, "chunk"))
	if d.State == metaclient.ServerSuspect || d.State == metaclient.ServerDown {
		fmt.Fprintf(&b, "it does not answer, so nothing is moved off it: what it holds is made again on other servers when it has been away for the grace, or at once with 'dmps rebuild VOLUME'\n")
	}
	for _, line := range d.moves().troubles() {
		fmt.Fprintln(&b, line)
	}
	if d.Unknown > 0 {
		fmt.Fprintf(&b, "it also holds %s that the metadata does not know, which nobody moves: if nothing needs them, dmps server purge %s\n", count(d.Unknown, "chunk"), d.Server)
	}
	fmt.Fprintf(&b, "follow it with: dmps server drain %s --wait\n", d.Server)
	_, err := io.WriteString(w, b.String())
	return err
}

// followDrain shows the progress until the server is drained.
func (a *app) followDrain(ctx context.Context, meta *metaclient.Client, d draining) (draining, error) {
	f := a.follow(string(d.Server), "chunks", d.Chunks)
	defer f.close()
	for {
		f.show(d.Chunks, d.moves())
		if pause(ctx, followEvery) != nil {
			return d, fmt.Errorf("%s still has %s; the draining goes on, 'dmps server undrain %s' ends it", d.Server, count(d.Chunks, "chunk"), d.Server)
		}
		next, err := drainingOf(ctx, meta, d.Server)
		switch {
		case errors.Is(err, client.ErrNoQuorum):
			f.trouble("the metadata service does not decide at the moment: waiting for it")
			continue
		case err != nil:
			return d, err
		case !next.Draining:
			return next, &exitError{exitcode.Failure, fmt.Errorf("somebody ended the draining of %s: it has %s", next.Server, count(next.Chunks, "chunk"))}
		}
		d = next
		if err := d.unknownLeft(); err != nil {
			return d, &advised{&exitError{exitcode.Failure, fmt.Errorf("%s: %w", d.Server, err)},
				fmt.Sprintf("They may be of a volume that a restored cluster has forgotten, or of another cluster. If nothing needs them: dmps server purge %s", d.Server)}
		}
		if d.Drained {
			f.show(0, d.moves())
			return d, nil
		}
	}
}

// pause waits, or gives the reason why the command was told to end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// following shows how something that goes on by itself comes to its end.
type following struct {
	view *progressView
	bar  *progressBar // nil: nothing was to be done
	left uint64
	unit string
	said string // the last troubles
}

// follow begins to show that left units of something are to be done.
func (a *app) follow(name, unit string, left uint64) *following {
	f := &following{view: a.newProgressView(), left: left, unit: unit}
	if left > 0 {
		f.bar = f.view.start(name, int64(left))
	}
	return f
}

// show notes how much is left. More than before changes nothing: the bar
// stands until the rest is less again.
func (f *following) show(left uint64, m moves) {
	if f.bar != nil && left < f.left {
		f.bar.add(int64(f.left - left))
		f.left = left
	}
	f.trouble(strings.Join(m.troubles(), "\n  "))
}

// trouble says a trouble once, until another one takes its place.
func (f *following) trouble(text string) {
	if text == f.said {
		return
	}
	f.said = text
	if text != "" {
		f.view.say(text)
	}
}

func (f *following) close() {
	if f.bar != nil {
		f.bar.done(strconv.FormatUint(f.left, 10) + " " + f.unit + " left")
	}
	f.view.close()
}
