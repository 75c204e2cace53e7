package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dmps/chaos/history"
	"dmps/chaos/plan"
)

// Report is what a run saw.
type Report struct {
	Target    string
	Plan      *plan.Plan
	Started   time.Time
	Elapsed   time.Duration
	Ops       int   // requests
	Unknown   int   // that were never answered
	Failed    int   // that were answered with an error
	Bytes     int64 // of those that were answered
	Faults    []*FaultReport
	Heals     []HealReport
	Foreign   []string // pages that held what nobody wrote there
	Failures  []string // the first of Failed
	Stuck     []string
	Crashed   []string
	Broken    string    `json:",omitempty"` // why the run did not come to its end: its history is not judged
	Starved   []Starved // when the machine had no time for this process
	Check     history.Result
	CheckTook time.Duration
	// LongestStall of an answered request.
	LongestStall time.Duration
	History      []history.Op `json:"-"`
}

// FaultReport is one fault. Times are since the start of the run.
type FaultReport struct {
	Step         string
	Began, Ended time.Duration
	Skipped      string        `json:",omitempty"` // why it was
	LongestStall time.Duration // of the requests of its time
}

// Starved is a time at which this process did not get to run.
type Starved struct{ At, Late time.Duration }

// ErrStarved is a run in which requests failed or redundancy did not come back,
// on a machine that was too busy to tell why: its processes were taken for dead
// when they only were late, beside those that the plan broke. Run it again where
// nothing else runs.
var ErrStarved = errors.New("the machine was too busy")

// HealReport is one wait for a heal.
type HealReport struct {
	Step        string
	Began, Took time.Duration
	Missing     string `json:",omitempty"` // at the end; "": nothing
}

// Err is nil when everything was as promised. Errors: ErrStarved when what was
// not may be the machine's fault.
func (r *Report) Err() error {
	var errs []error
	if r.Broken != "" {
		errs = append(errs, fmt.Errorf("the run did not come to its end: %s", r.Broken))
	}
	list := func(errs *[]error, what string, all []string) {
		if len(all) > 0 {
			*errs = append(*errs, fmt.Errorf("%s:\n\t%s", what, strings.Join(all[:min(5, len(all))], "\n\t")))
		}
	}
	list(&errs, fmt.Sprintf("%d pages held what nobody wrote there", len(r.Foreign)), r.Foreign)
	if err := r.Check.Err(); err != nil {
		errs = append(errs, err)
	}
	list(&errs, "requests are stuck", r.Stuck)
	list(&errs, "roles ended by themselves", r.Crashed)
	if r.Plan.Bear > r.Plan.Redundancy.M {
		return errors.Join(errs...)
	}
	var lost []error
	list(&lost, fmt.Sprintf("%d requests failed", r.Failed), r.Failures)
	for _, h := range r.Heals {
		if h.Missing != "" {
			lost = append(lost, fmt.Errorf("not healed %v after %s: %s", h.Took.Round(time.Second), h.Step, h.Missing))
		}
	}
	if len(errs) == 0 && len(lost) > 0 && len(r.Starved) > 0 {
		lost = append(lost, fmt.Errorf("%w: %s; run it again where nothing else runs", ErrStarved, r.starved()))
	}
	return errors.Join(append(errs, lost...)...)
}

// starved is how often and how long the machine was too busy.
func (r *Report) starved() string {
	longest := time.Duration(0)
	for _, s := range r.Starved {
		longest = max(longest, s.Late)
	}
	return fmt.Sprintf("%d times this process did not get to run, for %v at most", len(r.Starved), longest.Round(time.Millisecond))
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	say := func(name, format string, a ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name, fmt.Sprintf(format, a...))
	}
	say("target", "%s, %v over %d servers, %d metadata nodes, seed %d", r.Target, r.Plan.Redundancy, r.Plan.Servers, r.Plan.Meta, r.Plan.Seed)
	say("requests", "%d in %v, %d MiB; %d of unknown outcome, %d failed", r.Ops, r.Elapsed.Round(time.Second), r.Bytes>>20, r.Unknown, r.Failed)
	done, skipped := 0, 0
	var reasons []string
	for _, f := range r.Faults {
		if f.Skipped == "" {
			done++
			continue
		}
		skipped++
		reasons = append(reasons, f.Step+": "+f.Skipped)
	}
	say("faults", "%d, %d skipped", done, skipped)
	for _, why := range reasons {
		say("", "skipped %s", why)
	}
	longest := time.Duration(0)
	for _, h := range r.Heals {
		longest = max(longest, h.Took)
	}
	say("heals", "%d, the longest took %v", len(r.Heals), longest.Round(10*time.Millisecond))
	say("longest stall", "%v", r.LongestStall.Round(time.Millisecond))
	byKind := map[string]time.Duration{}
	for _, f := range r.Faults {
		if w := strings.Fields(f.Step); len(w) > 3 && f.Skipped == "" {
			k := w[2] + " " + strings.TrimRight(w[3], "0123456789")
			if w[2] == "cut" || w[2] == "delay" || w[2] == "throttle" || w[2] == "reset" {
				k = w[2]
			}
			byKind[k] = max(byKind[k], f.LongestStall)
		}
	}
	for _, k := range sortedKeys(byKind) {
		say("", "during %-16s %v", k, byKind[k].Round(time.Millisecond))
	}
	if len(r.Starved) > 0 {
		say("machine", "%s", r.starved())
	}
	say("history", "%d operations on %d pages, checked in %v", r.Check.Ops, r.Check.Pages, r.CheckTook.Round(time.Millisecond))
	if err := r.Err(); errors.Is(err, ErrStarved) {
		say("verdict", "nothing is shown:\n%v", err)
	} else if err != nil {
		say("verdict", "NOT as promised:\n%v", err)
	} else {
		say("verdict", "linearizable, and all redundancy is there")
	}
	return b.String()
}

// Save writes the plan, the report as text and JSON, and the history to a folder.
func (r *Report) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("saving the report: %w", err)
	}
	js, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("saving the report: %w", err)
	}
	h, err := os.Create(filepath.Join(dir, "history.bin"))
	if err != nil {
		return fmt.Errorf("saving the report: %w", err)
	}
	return errors.Join(
		history.Write(h, r.History), h.Close(),
		os.WriteFile(filepath.Join(dir, "chaos.plan"), []byte(r.Plan.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "report.json"), append(js, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "report.txt"), []byte(r.String()), 0o644),
	)
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
