package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// progress is what `dmps status --output json` promises of a rebuild.
type progress struct {
	Volumes []struct {
		State       string
		AtRiskSince *time.Time `json:"at_risk_since"`
		Report      *struct {
			Rebuild *struct {
				RowsLeft       int64   `json:"rows_left"`
				RowsTotal      int64   `json:"rows_total"`
				BytesPerSecond float64 `json:"bytes_per_second"`
				Remaining      float64 `json:"remaining_seconds"`
				RateBytes      int64   `json:"rate_bytes"`
				Members        []struct {
					Server  string
					Filling bool
				}
			}
		}
	}
}

// TestRebuildIsAskedForAndWatched kills two of eight servers under load and does
// not wait for the grace of half a minute: `dmps rebuild --watch` ends with 0
// when the volume is whole. Meanwhile status shows the progress, and in the end
// the events tell the story.
func TestRebuildIsAskedForAndWatched(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers = 8 })
	ld := c.startLoad()
	ld.more(4000)
	if r := c.dmps("rebuild", "swap0"); r.code != healthy || !strings.Contains(r.stdout, "whole") {
		t.Errorf("nothing is missing: %v", r)
	}
	for _, s := range c.Servers[:2] {
		must(t, c.Kill(s))
	}
	c.awaitStatus(degraded, noticeLimit)
	// Slowly, so that there is something to see.
	const rate = 2 << 20
	ctx, cancel := context.WithTimeout(t.Context(), rebuildLimit)
	defer cancel()
	watch := c.Command(ctx, "rebuild", "swap0", "--watch", "--rate", "2MiB", "--output", "json")
	var out, diag bytes.Buffer
	watch.Stdout, watch.Stderr = &out, &diag
	must(t, watch.Start())
	begin := time.Now()
	seen := false
	for !seen && time.Since(begin) < rebuildLimit {
		var p progress
		r := c.dmps("status", "--output", "json")
		if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
			t.Fatalf("%v: %v", err, r)
		}
		v := p.Volumes[0]
		if v.Report == nil || v.Report.Rebuild == nil || r.code != degraded {
			continue
		}
		b := v.Report.Rebuild
		seen = b.RateBytes == rate && b.RowsLeft > 0 && b.RowsLeft < b.RowsTotal && b.BytesPerSecond > 0 && b.Remaining > 0 &&
			len(b.Members) > 0 && v.AtRiskSince != nil
	}
	if !seen {
		t.Error("status never showed a rebuild under way")
	}
	// The rest at full speed.
	if r := c.dmps("rebuild", "swap0", "--rate", "0"); r.code != degraded && r.code != healthy {
		t.Errorf("changing the rate: %v", r)
	}
	if err := watch.Wait(); err != nil {
		t.Errorf("rebuild --watch: %v\n%s\n%s", err, out.String(), diag.String())
	}
	t.Logf("whole %v after it was asked for", time.Since(begin).Round(10*time.Millisecond))
	var first, last struct {
		Replaced int  `json:"replaced_members"`
		Whole    bool `json:"whole"`
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	must(t, json.Unmarshal([]byte(lines[0]), &first))
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	if first.Whole || !last.Whole || last.Replaced == 0 || len(lines) < 3 {
		t.Errorf("%d samples, the first %+v, the last %+v", len(lines), first, last)
	}
	c.awaitStatus(healthy, noticeLimit)
	ld.more(1000)
	ld.flawless()

	r := c.dmps("events", "--since", "10m", "--output", "json")
	var kinds []string
	for line := range strings.Lines(r.stdout) {
		var e struct {
			Kind, Text string
			Seq        uint64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Kind == "" || e.Text == "" || e.Seq == 0 {
			t.Fatalf("event %q: %v", line, err)
		}
		kinds = append(kinds, e.Kind)
	}
	// What came after what.
	at := -1
	for _, k := range []string{"volume-created", "volume-attached", "server-suspect", "members-replaced", "members-rebuilt"} {
		i := slices.Index(kinds, k)
		if i <= at {
			t.Errorf("%s is missing or too early in %q", k, kinds)
		}
		at = max(at, i)
	}
	if slices.Contains(kinds, "server-down") && time.Since(begin) < 25*time.Second {
		t.Errorf("the grace was over, so this test shows nothing: %q", kinds)
	}
}
