package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
)

// scrubView shows how far a scrub is.
type scrubView struct {
	view *progressView // nil: nobody watches
	bar  *progressBar
	name string
	done int64
}

func (a *app) newScrubView(volume string, watch bool) *scrubView {
	s := &scrubView{name: volume}
	if watch {
		s.view = a.newProgressView()
	}
	return s
}

// update is called by one goroutine at a time.
func (s *scrubView) update(st client.ScrubStatus) {
	if s.view == nil || st.RowsTotal == 0 {
		return
	}
	if s.bar == nil {
		s.bar = s.view.start(s.name, int64(st.RowsTotal))
	}
	// Rows come and go: it may see more than there were.
	if now := min(int64(st.RowsDone), int64(st.RowsTotal)); now > s.done {
		s.bar.add(now - s.done)
		s.done = now
	}
}

func (s *scrubView) close() {
	if s.bar != nil {
		s.bar.done(fmt.Sprintf("%d of %d rows", s.done, s.bar.total))
	}
	if s.view != nil {
		s.view.close()
	}
}

// scrubResult is how a scrub ended, and what its volume has lost besides: a scrub sees
// no page that is gone.
type scrubResult struct {
	client.ScrubStatus
	LostPages uint64 `json:"lost_pages"`    // pages that answer with an error
	Unknown   uint64 `json:"unknown_pages"` // at most so many are gone of which nobody knows which
	volume    metaclient.Volume
}

// scrubResultOf is st with what is lost of v, as its client reports it and meta knows.
func scrubResultOf(st client.ScrubStatus, v metaclient.Volume) scrubResult {
	r := scrubResult{ScrubStatus: st, Unknown: v.Unknown, volume: v}
	if v.Report != nil {
		r.LostPages = v.Report.LostPages
	}
	return r
}

// scrubExit is the exit code of a scrub that has ended. The output has said it.
func scrubExit(st scrubResult) error {
	switch {
	case st.Unrepairable > 0 || st.LostPages > 0 || st.Unknown > 0:
		return &exitError{code: exitcode.Lost}
	case !st.Complete():
		return &exitError{code: exitcode.Failure}
	case st.BadSlots > 0:
		return &exitError{code: exitcode.Degraded}
	}
	return nil
}

func (a *app) printScrub(st scrubResult, output string) error {
	if output == "json" {
		if err := printJSON(a.out, st); err != nil {
			return err
		}
		return scrubExit(st)
	}
	if _, err := fmt.Fprint(a.out, scrubText(st, paletteFor(a.out))); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return scrubExit(st)
}

// scrubText says what a scrub found, and what to do.
func scrubText(st scrubResult, p palette) string {
	var b strings.Builder
	took := st.Finished.Sub(st.Started)
	fmt.Fprintf(&b, "%s: %d slots of %d rows verified in %v, %s read by the servers\n",
		st.volume.Name, st.SlotsVerified, st.RowsDone, took.Round(10*time.Millisecond), human(st.Bytes))
	if st.Ended != "" {
		fmt.Fprintf(&b, "%s\n", p.paint(colourWarn, fmt.Sprintf("It ended early, after %d of %d rows: %s.", st.RowsDone, st.RowsTotal, st.Ended)))
	}
	if st.BadSlots > 0 {
		colour := colourWarn
		if st.Repaired < st.BadSlots {
			colour = colourBad
		}
		fmt.Fprintf(&b, "%s\n", p.paint(colour, fmt.Sprintf("%d slots were wrong (%s), %d of them are repaired.",
			st.BadSlots, scrubServers(st.ScrubStatus, func(s *client.ScrubServer) uint64 { return s.Bad }), st.Repaired)))
		fmt.Fprintln(&b, "Memory that changes by itself is about to fail: look at the machines of these servers, and drain or replace one that has errors again.")
	}
	if st.Unrepairable > 0 {
		fmt.Fprintf(&b, "%s\n", p.paint(colourBad, fmt.Sprintf("%d slots are not repaired: too few members of their rows are up, or right.", st.Unrepairable)))
		fmt.Fprintln(&b, "Bring back the servers that 'dmps status' shows as suspect or lost, and scrub again.")
	}
	if st.LostPages > 0 {
		fmt.Fprintf(&b, "%s\n", p.paint(colourBad, fmt.Sprintf("%d pages are lost: reading them gives an error until they are written anew.", st.LostPages)))
	}
	if st.Unknown > 0 {
		fmt.Fprintf(&b, "%s\n", p.paint(colourBad, unknownLine(&st.volume)))
	}
	if st.SlotsSkipped > 0 {
		fmt.Fprintf(&b, "%s\n", p.paint(colourWarn, fmt.Sprintf("%d slots could not be verified (%s): the scrub is incomplete.",
			st.SlotsSkipped, scrubServers(st.ScrubStatus, func(s *client.ScrubServer) uint64 { return s.Skipped }))))
		for _, s := range st.Servers {
			if s.Problem != "" {
				fmt.Fprintf(&b, "  %s: %s\n", s.Server, s.Problem)
			}
		}
		fmt.Fprintln(&b, "Scrub again when 'dmps status' says healthy.")
	}
	if scrubExit(st) == nil {
		fmt.Fprintln(&b, p.paint(colourGood, "Everything is right."))
	}
	return b.String()
}

// scrubServers lists the servers with a count.
func scrubServers(st client.ScrubStatus, count func(*client.ScrubServer) uint64) string {
	var l []string
	for i := range st.Servers {
		if n := count(&st.Servers[i]); n > 0 {
			l = append(l, fmt.Sprintf("%s %d", st.Servers[i].Server, n))
		}
	}
	if l == nil {
		return "members that are lost"
	}
	return strings.Join(l, ", ")
}

func (a *app) printScrubBegun(volume string, st client.ScrubStatus, output string) error {
	if output == "json" {
		return printJSON(a.out, st)
	}
	_, err := fmt.Fprintf(a.out, "scrubbing %s, %d rows; 'dmps scrub %s --watch' shows how far it is\n", volume, st.RowsTotal, volume)
	return err
}

func (a *app) printScrubStopped(volume string, st client.ScrubStatus, output string) error {
	if output == "json" {
		return printJSON(a.out, st)
	}
	text := fmt.Sprintf("no scrub of %s runs", volume)
	if !st.Started.IsZero() {
		found := "nothing wrong"
		if st.BadSlots > 0 {
			found = fmt.Sprintf("%s wrong, of which %d are repaired", count(st.BadSlots, "slot"), st.Repaired)
		}
		text += fmt.Sprintf(" any more; the last one verified %d of %d rows and found %s", st.RowsDone, st.RowsTotal, found)
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

// scrubRemark is what status says of a volume's scrubs; "" when there is
// nothing to say.
func scrubRemark(r *client.Report, now time.Time, p palette) string {
	if r == nil {
		return ""
	}
	if s := r.Scrub; s != nil && s.Running && s.RowsTotal > 0 {
		return fmt.Sprintf("scrubbing, %d %%, %d errors", min(100, s.RowsDone*100/s.RowsTotal), s.BadSlots)
	}
	s := r.LastScrub
	if e := r.Scrub; e != nil && e.Ended != "" && (s == nil || e.Finished.After(s.Finished)) {
		return p.paint(colourWarn, fmt.Sprintf("a scrub ended early %s ago, after %d of %d rows: %s", ago(now.Sub(e.Finished)), e.RowsDone, e.RowsTotal, e.Ended))
	}
	if s == nil {
		return ""
	}
	text := fmt.Sprintf("last scrub %s ago, %d errors", ago(now.Sub(s.Finished)), s.BadSlots)
	switch {
	case s.Unrepairable > 0:
		return p.paint(colourBad, text+fmt.Sprintf(", %d not repaired", s.Unrepairable))
	case s.SlotsSkipped > 0:
		return p.paint(colourWarn, text+", incomplete: "+cmp.Or(s.SkippedReason, count(s.SlotsSkipped, "slot")+" could not be verified"))
	}
	return text
}

// ago is a duration in one unit.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
