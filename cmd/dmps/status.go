package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// livePatience bounds how long status waits for a client's own report. What
// meta last heard of it is at most some seconds old.
const livePatience = time.Second

// statusReport is what `dmps status --output json` prints.
type statusReport struct {
	Cluster string              `json:"cluster"`
	Level   uint32              `json:"level"` // of the cluster: what it uses
	State   client.State        `json:"state"` // the worst of all volumes
	Volumes []volumeStatus      `json:"volumes"`
	Servers []metaclient.Server `json:"servers"`
	Meta    []nodeState         `json:"meta"`

	Rebalancing *metaclient.Rebalancing  `json:"rebalancing,omitempty"` // absent: memory use is not being evened out
	Copysets    metaclient.Copysets      `json:"copysets"`
	Unreachable []metaclient.Unreachable `json:"unreachable_servers"`
	Upgrade     upgrade                  `json:"upgrade"`
}

// volumeStatus is a volume as the cluster and its client together know it.
type volumeStatus struct {
	metaclient.Volume
	Live      bool   `json:"live"`                 // the client itself was asked, and answered
	LiveError string `json:"live_error,omitempty"` // why it did not
	Gone      bool   `json:"client_gone"`          // its lease has run out, and it did not answer: nobody serves the volume
}

// riskSince is since when the volume has less than its full redundancy, as far
// as anybody noted it; zero: it has it.
func (v *volumeStatus) riskSince() time.Time {
	at := v.AtRiskSince
	if v.Report == nil || v.Report.Rebuild == nil {
		return at
	}
	if r := v.Report.Rebuild.AtRiskSince; at.IsZero() || !r.IsZero() && r.Before(at) {
		return r
	}
	return at
}

func (a *app) statusCommand() *cobra.Command {
	var (
		output choice
		watch  bool
		every  time.Duration
	)
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show whether everything is healthy, and what is not",
		GroupID: groupManage,
		Long: `Shows volumes, rebuilds, memory servers and metadata nodes.

The client that serves a volume is asked for its own view too, which is newer
than what it last told the metadata service; of the two the worse one counts.

While an upgrade is under way it says which versions run where, and what is left to do.

With --watch it goes on when the metadata service does not answer for a while, and
says so on standard error.

Exit codes: 0 healthy, 1 or 69 cannot tell (69: too few metadata nodes answer), 2 a
volume is degraded, or its client is gone, 3 a volume has lost data, or for some
seconds could not be read or written. Programs read --output json; fields are
added in later versions, never removed.`,
		Example: `  dmps status
  dmps status --watch
  dmps status --output json | jq '.volumes[] | {name, state, degraded_groups}'
  dmps status >/dev/null || mail -s "dmps is not healthy" admin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			meta, err := a.metaSoon(cmd)
			if err != nil {
				return err
			}
			defer meta.Close()
			report, err := gatherStatus(cmd.Context(), meta)
			if err != nil {
				return err // cannot tell
			}
			if err := a.printStatus(report, output.value, watch); err != nil {
				return err
			}
			if !watch {
				return statusExit(report.State)
			}
			return a.watchStatus(cmd.Context(), meta, report.State, output.value, every)
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until interrupted")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "with --watch: how often")
	noCompletion(cmd, "every")
	return cmd
}

// watchStatus shows the status again and again, until ctx ends. That nobody
// answers for a while does not end it: then it matters most.
func (a *app) watchStatus(ctx context.Context, meta *metaclient.Client, state client.State, output string, every time.Duration) error {
	silent, shown := false, time.Now()
	for {
		select {
		case <-ctx.Done():
			return statusExit(state)
		case <-time.After(every):
		}
		report, err := gatherStatus(ctx, meta)
		switch {
		case ctx.Err() != nil:
			return statusExit(state)
		case err == nil:
			silent, shown, state = false, time.Now(), report.State
			if err := a.printStatus(report, output, true); err != nil {
				return err
			}
		case !errors.Is(err, client.ErrNoQuorum):
			return err // cannot tell
		case !silent:
			a.tellSilence(shown, err)
			silent = true
		}
	}
}

// tellSilence says that what was shown last may not be so any more.
func (a *app) tellSilence(shown time.Time, err error) {
	fmt.Fprintf(a.err, "this was so at %s; nobody tells how it is now, trying again: %v\n", shown.Format(time.TimeOnly), err)
}

// statusExit is the exit code of a state. The output has said it already.
func statusExit(s client.State) error {
	switch s {
	case client.StateHealthy:
		return nil
	case client.StateDegraded:
		return &exitError{code: exitcode.Degraded}
	case client.StateFailed:
		return &exitError{code: exitcode.Lost}
	}
	return &exitError{exitcode.Failure, fmt.Errorf("unknown state %q: this program is older than the cluster", s)}
}

func gatherStatus(ctx context.Context, meta *metaclient.Client) (statusReport, error) {
	st, err := meta.Status(ctx)
	if err != nil {
		return statusReport{}, err
	}
	r := statusReport{
		Cluster: st.Cluster, Level: st.Level, Upgrade: upgradeOf(st),
		Volumes: make([]volumeStatus, len(st.Volumes)),
		Servers: emptyNotNull(st.Servers),
		Meta:    make([]nodeState, len(st.Meta)),

		Rebalancing: st.Rebalancing, Copysets: st.Copysets, Unreachable: emptyNotNull(st.Unreachable),
	}
	var wg sync.WaitGroup
	for i, v := range st.Volumes {
		wg.Go(func() { r.Volumes[i] = liveStatus(ctx, v) })
	}
	for i, n := range st.Meta {
		r.Meta[i].Node = n
	}
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, nodeLimit)
		defer cancel()
		askEach(ctx, meta, r.Meta, func(*nodeState) bool { return true })
	})
	wg.Wait()
	r.State = worstState(r.Volumes)
	suspectServers(&r)
	return r, nil
}

// suspectServers takes the word of clients for servers that do not answer
// them: the metadata service waits for several heartbeats.
func suspectServers(r *statusReport) {
	for _, v := range r.Volumes {
		if !v.Live || v.Report == nil {
			continue
		}
		for i := range r.Servers {
			s := &r.Servers[i]
			if s.State == metaclient.ServerUp && slices.Contains(v.Report.Suspect, s.ID) {
				s.State = metaclient.ServerSuspect
			}
		}
	}
}

// liveStatus asks a volume's client, if it has one. Of one that is gone nobody knows
// which rows it wrote to fewer members than it should: that is not healthy.
func liveStatus(ctx context.Context, v metaclient.Volume) volumeStatus {
	s := askClient(ctx, v)
	if l := v.Lease; l != nil && !l.Care && l.Remaining <= 0 && !s.Live {
		s.Gone, s.State = true, worse(s.State, client.StateDegraded)
	}
	return s
}

func askClient(ctx context.Context, v metaclient.Volume) volumeStatus {
	s := volumeStatus{Volume: v}
	if v.Lease == nil || v.Lease.AdminURL == "" {
		return s
	}
	live, err := fetchAdminStatus(ctx, v.Lease.AdminURL)
	switch {
	case err != nil:
		s.LiveError = err.Error()
	case live.Volume != v.Name || live.Epoch < v.Lease.Epoch:
		s.LiveError = fmt.Sprintf("%s serves volume %s with epoch %d: not the holder of the lease", v.Lease.AdminURL, live.Volume, live.Epoch)
	default:
		s.Volume, s.Live = mergeLive(v, live), true
	}
	return s
}

// mergeLive takes the worse of what meta knows and what the client says.
func mergeLive(v metaclient.Volume, live adminStatus) metaclient.Volume {
	r := live.Report
	if r.Known < v.Version {
		// It has not heard yet whether their loss was accepted: meta knows them all, since
		// it is told before a page is served.
		if r.Unknown = v.Unknown; r.Unknown == 0 && r.Beside != "" {
			r.State, r.Beside = r.Beside, ""
		}
	}
	v.State = worse(v.State, r.State)
	v.DegradedGroups = max(v.DegradedGroups, uint64(max(0, r.DegradedGroups)))
	v.RedundancyLeft = min(v.RedundancyLeft, r.RedundancyLeft)
	v.Unknown = max(v.Unknown, r.Unknown)
	if r.LastScrub == nil {
		r.LastScrub = lastScrub(v)
	}
	v.Report = &r
	return v
}

// severity orders states; an unknown one is the worst, since nobody can say
// that it is harmless.
func severity(s client.State) int {
	switch s {
	case client.StateHealthy:
		return 0
	case client.StateDegraded:
		return 1
	case client.StateFailed:
		return 2
	}
	return 3
}

func worse(a, b client.State) client.State {
	if severity(a) >= severity(b) {
		return a
	}
	return b
}

func worstState(volumes []volumeStatus) client.State {
	worst := client.StateHealthy
	for _, v := range volumes {
		worst = worse(worst, v.State)
	}
	return worst
}

// maxAdminStatus bounds what is read of an answer.
const maxAdminStatus = 1 << 20

func fetchAdminStatus(ctx context.Context, base string) (adminStatus, error) {
	var s adminStatus
	b, err := fetchAdmin(ctx, base, "/status")
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return adminStatus{}, fmt.Errorf("asking the client: %w", err)
	}
	return s, nil
}

// fetchAdmin gets what a client's admin address has under a path.
func fetchAdmin(ctx context.Context, base, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, livePatience)
	defer cancel()
	res, err := askAdmin(base, func(base string) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	})
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAdminStatus))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s", res.Status)
	}
	return body, nil
}

func (a *app) printStatus(r statusReport, output string, again bool) error {
	if output == "json" {
		return printJSON(a.out, r)
	}
	var text strings.Builder
	if err := renderStatus(&text, r, paletteFor(a.out), time.Now()); err != nil {
		return err
	}
	out := text.String()
	if columns, lines := termSize(a.out); again && columns > 0 {
		out = screen(out, columns, lines)
	}
	if _, err := io.WriteString(a.out, out); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// renderStatus writes the report for people.
func renderStatus(w io.Writer, r statusReport, p palette, now time.Time) error {
	if err := headline(r, p).print(w); err != nil {
		return err
	}
	if err := renderParts(w, volumeStatusTable(r.Volumes, p)); err != nil {
		return err
	}
	renderTrouble(w, r, p, now)
	return renderParts(w, serverTable(r.Servers, p), nodeStateTable(r.Meta, p))
}

// renderParts writes tables that have rows, each after an empty line.
func renderParts(w io.Writer, parts ...*table) error {
	for _, part := range parts {
		if len(part.rows) < 2 {
			continue
		}
		fmt.Fprintln(w)
		if err := part.print(w); err != nil {
			return err
		}
	}
	return nil
}

// unreachableLine is of a server that the metadata does not find where it says that it is.
func unreachableLine(u metaclient.Unreachable) string {
	if u.Up {
		return fmt.Sprintf("server %s does not answer at %s, only at its other addresses: %s", u.ID, u.Addr, u.Reason)
	}
	return fmt.Sprintf("server %s was refused: it was not found at %s: %s; check its --listen and --advertise", u.ID, u.Addr, u.Reason)
}

// renderTrouble writes what goes on: rebuilds, risks, what is stuck or moves.
func renderTrouble(w io.Writer, r statusReport, p palette, now time.Time) {
	var lines []string
	for i := range r.Volumes {
		v := &r.Volumes[i]
		switch {
		case v.Report != nil && v.Report.Rebuild != nil:
			does := " rebuilds  "
			if blocked(v) {
				does = " cannot be rebuilt further  "
			}
			lines = append(lines, p.paint(colourWarn, v.Name+does+rebuildProgress(v, now)))
		case !v.riskSince().IsZero():
			lines = append(lines, p.paint(colourWarn, fmt.Sprintf("%s has been at risk for %s", v.Name, span(now.Sub(v.riskSince())))))
		}
		if text, less := carriersOf(v.Report, r.Servers); text != "" {
			colour := ""
			if less {
				colour = colourWarn
			}
			lines = append(lines, p.paint(colour, v.Name+" goes over "+text))
		}
		for _, l := range goneLines(v) {
			lines = append(lines, p.paint(colourBad, l))
		}
		if v.Pending > 0 {
			lines = append(lines, fmt.Sprintf("%s has %s on the way to other servers", v.Name, count(v.Pending, "member")))
		}
		if v.StuckMembers > 0 {
			lines = append(lines, p.paint(colourBad, fmt.Sprintf("%s has %s that cannot be replaced: %s", v.Name, count(v.StuckMembers, "member"), v.StuckReason)),
				"  "+stuckAdvice(v.StuckReason))
		}
	}
	for _, s := range r.Servers {
		switch {
		case s.Draining && s.Chunks == 0 && s.UnknownChunks > 0:
			lines = append(lines, p.paint(colourWarn, fmt.Sprintf("server %s has no members left, but %s that the metadata does not know: see dmps server drain %s", s.ID, count(s.UnknownChunks, "chunk"), s.ID)))
		case s.Draining && s.Chunks == 0:
			lines = append(lines, fmt.Sprintf("server %s is drained: it holds nothing", s.ID))
		case s.Draining:
			lines = append(lines, fmt.Sprintf("server %s is being drained: %s left", s.ID, count(s.Chunks, "chunk")))
		case s.State == metaclient.ServerShort:
			lines = append(lines, p.paint(colourWarn, fmt.Sprintf("server %s: its host runs short of memory, members are moved off it", s.ID)))
		case !s.AwaySince.IsZero():
			lines = append(lines, p.paint(colourWarn, fmt.Sprintf("server %s has been away for %s", s.ID, span(now.Sub(s.AwaySince)))))
		}
	}
	for _, u := range r.Unreachable {
		lines = append(lines, p.paint(colourBad, unreachableLine(u)))
	}
	if silent := silentNodes(r.Meta); silent != "" {
		lines = append(lines, p.paint(colourBad, silent))
	}
	if held := heldLine(r.Servers, now); held != "" {
		lines = append(lines, p.paint(colourBad, held))
	}
	if b := r.Rebalancing; b != nil {
		lines = append(lines, fmt.Sprintf("memory use is being evened out to within %d %%: %s moved", b.Threshold, count(b.Moved, "member")))
	}
	for _, l := range r.Upgrade.lines() {
		lines = append(lines, p.paint(colourWarn, l))
	}
	if l := copysetLine(r); l != "" {
		lines = append(lines, l)
	}
	if len(lines) > 0 {
		fmt.Fprintln(w)
	}
	for _, l := range lines {
		fmt.Fprintln(w, l)
	}
}

// copysetLine says what many failures at once would do.
func copysetLine(r statusReport) string {
	c := r.Copysets
	if c.Sets == 0 {
		return ""
	}
	line := fmt.Sprintf("groups lie on %s of servers: if %d of the %d servers fail at once, data is lost with a probability of %.2g %%",
		count(c.Sets, "combination"), c.Failures, len(r.Servers), 100*c.Loss)
	if c.Repairs > 0 {
		line += fmt.Sprintf("; %d of them are of repairs, until %s home", c.Repairs, goHome(c.Away))
	}
	return line
}

func goHome(members uint64) string {
	if members == 1 {
		return "1 member is"
	}
	return fmt.Sprintf("%d members are", members)
}

// headline says in one line what a person wants to know first.
func headline(r statusReport, p palette) *table {
	var t table
	up := 0
	for _, s := range r.Servers {
		switch s.State {
		case metaclient.ServerUp, metaclient.ServerDraining, metaclient.ServerShort: // the last two are up too
			up++
		}
	}
	what := map[client.State]string{
		client.StateHealthy:  "everything is as promised",
		client.StateDegraded: "all data is there, with less redundancy than promised",
		client.StateFailed:   "data is lost or cannot be written",
	}[r.State]
	for _, v := range r.Volumes {
		switch {
		case v.Gone && r.State == client.StateDegraded:
			what = "the client of " + v.Name + " is gone: what it wrote last may have less redundancy than promised"
		case v.LiveError != "" && r.State == client.StateHealthy:
			what = "as last reported by the client of " + v.Name + ", which does not answer now"
		}
	}
	if len(r.Volumes) == 0 {
		what = "no volumes; 'dmps volume create' makes one"
	}
	t.row(fmt.Sprintf("%s: %s (%d of %d memory servers up, cluster %s)",
		p.paint(stateColour(string(r.State)), strings.ToUpper(string(r.State))), what, up, len(r.Servers), r.Cluster))
	return &t
}

func volumeStatusTable(volumes []volumeStatus, p palette) *table {
	plain := make([]metaclient.Volume, len(volumes))
	for i, v := range volumes {
		plain[i] = v.Volume
	}
	t := volumeTable(plain, p)
	for i, v := range volumes {
		if notes := volumeNotes(&v, p); notes != "" {
			t.rows[i+1] = append(t.rows[i+1], notes)
		}
	}
	return t
}

// volumeNotes is what stands behind a volume's row.
func volumeNotes(v *volumeStatus, p palette) string {
	var notes []string
	r := v.Report
	if r != nil && r.LostPages > 0 {
		notes = append(notes, p.paint(colourBad, count(r.LostPages, "page")+" lost"))
	}
	if v.Unknown > 0 {
		notes = append(notes, p.paint(colourBad, "up to "+count(v.Unknown, "page")+" gone, unknown which"))
	}
	if r != nil && len(r.Suspect) > 0 {
		notes = append(notes, p.paint(colourWarn, "no answer from "+joinIDs(r.Suspect)))
	}
	if r != nil && len(r.Refused) > 0 && v.Lease != nil {
		notes = append(notes, p.paint(colourWarn, refusedLine(r)))
	}
	switch {
	case blocked(v):
		notes = append(notes, p.paint(colourWarn, "rebuild waits, "+count(r.Rebuild.RowsLeft, "row")+" left"))
	case r != nil && r.Rebuild != nil:
		notes = append(notes, p.paint(colourWarn, "rebuilding, "+count(r.Rebuild.RowsLeft, "row")+" left"))
	case v.Rebuilding > 0:
		notes = append(notes, p.paint(colourWarn, count(v.Rebuilding, "member")+" not filled yet"))
	}
	switch {
	case v.Gone:
		notes = append(notes, p.paint(colourWarn, "nobody serves it: its client is gone, this is its last report"))
	case v.LiveError != "":
		notes = append(notes, p.paint(colourWarn, "its client does not answer, this is its last report"))
	}
	if len(notes) == 0 {
		return scrubRemark(r, time.Now(), p)
	}
	return strings.Join(notes, "; ")
}

func joinIDs(ids []raid.ServerID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = string(id)
	}
	return strings.Join(s, ", ")
}

func serverTable(servers []metaclient.Server, p palette) *table {
	var t table
	t.row(p.head("SERVER", "STATE", "ADDRESS", "MEMORY", "USED", "PROMISED", "CHUNKS", "LABELS")...)
	for _, s := range servers {
		share := 0.0
		if s.MemoryTotal > 0 {
			share = float64(s.MemoryUsed) / float64(s.MemoryTotal)
		}
		t.row(string(s.ID), p.state(s.State), s.Addr, human(s.MemoryTotal),
			fmt.Sprintf("%s %3.0f %%", bar(share, 10), share*100), human(s.MemoryReserved), chunkText(s), labelText(s.Labels))
	}
	return &t
}

// chunkText says how many chunks a server lends, and holds besides.
func chunkText(s metaclient.Server) string {
	text := strconv.FormatUint(s.Chunks, 10)
	if s.UnknownChunks > 0 {
		text += fmt.Sprintf(" + %d unknown", s.UnknownChunks)
	}
	return text
}

// heldLine says that servers are waited for which fell silent together; "": there are none.
func heldLine(servers []metaclient.Server, now time.Time) string {
	n, until := 0, time.Time{}
	for _, s := range servers {
		if s.HeldUntil.After(now) {
			n, until = n+1, s.HeldUntil
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s fell silent together: what they hold is not replaced for another %s, in case they come back; dmps rebuild VOLUME does not wait", count(n, "server"), span(until.Sub(now)))
}
