package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"dmps/client"
)

// How a rebuild goes, in words: `status`, `top` and `rebuild` say the same.

// rebuildShare is how much of what is to be filled is filled, 0 to 1.
func rebuildShare(r *client.RebuildReport) float64 {
	if r.RowsTotal == 0 {
		return 1
	}
	return 1 - float64(r.RowsLeft)/float64(r.RowsTotal)
}

// rebuildProgress is one line: bar, rate, time left or what it waits for, time at
// risk.
func rebuildProgress(v *volumeStatus, now time.Time) string {
	r := v.Report.Rebuild
	share := rebuildShare(r)
	parts := []string{
		fmt.Sprintf("%s %3.0f %%", bar(share, 20), floorPercent(share)),
		// Widths that do not change: the line is drawn again and again.
		fmt.Sprintf("%*d of %d rows left", len(strconv.FormatUint(uint64(r.RowsTotal), 10)), r.RowsLeft, r.RowsTotal),
	}
	if r.RowsAdded > 0 {
		parts[1] += fmt.Sprintf(" (%d came on top)", r.RowsAdded)
	}
	if r.Blocked {
		parts = append(parts, waitsFor(v))
	} else {
		parts = append(parts, fmt.Sprintf("%10s", human(uint64(r.BytesPerSecond))+"/s"), timeLeft(r))
	}
	if at := v.riskSince(); !at.IsZero() {
		parts = append(parts, "at risk for "+span(now.Sub(at)))
	}
	if hold := heldBy(r); hold != "" && !r.Blocked {
		parts = append(parts, hold)
	}
	return strings.Join(parts, "  ")
}

// blocked reports whether there is something to be filled, and nothing of it can be
// made now.
func blocked(v *volumeStatus) bool {
	return v.Report != nil && v.Report.Rebuild != nil && v.Report.Rebuild.Blocked
}

// waitsFor says what a rebuild waits for that cannot go on.
func waitsFor(v *volumeStatus) string {
	var what []string
	if away := v.Report.Suspect; len(away) > 0 {
		what = append(what, "for "+joinIDs(away)+" to come back with what they hold")
	}
	if n := v.Report.LostPages; n > 0 {
		what = append(what, fmt.Sprintf("until lost pages (%d) are written anew or trimmed", n))
	}
	if len(what) == 0 {
		what = append(what, "for members that hold the rest")
	}
	return "waits " + strings.Join(what, ", and ")
}

// floorPercent does not say 100 before it is.
func floorPercent(share float64) float64 { return float64(int(share * 100)) }

func timeLeft(r *client.RebuildReport) string {
	if r.RemainingSeconds < 0 {
		return "time left unknown"
	}
	return span(time.Duration(r.RemainingSeconds*float64(time.Second))) + " left"
}

// heldBy says what limits the rate; "" when nothing does.
func heldBy(r *client.RebuildReport) string {
	switch {
	case r.HeldBack:
		return "held back for the foreground"
	case r.RateBytes > 0:
		return "at most " + human(uint64(r.RateBytes)) + "/s"
	}
	return ""
}

// span prints a time as people say it: 340 ms, 12 s, 3 min 20 s, 2 h 5 min.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(d, 0).Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}
