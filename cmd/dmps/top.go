package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/meta/metaclient"
)

func (a *app) topCommand() *cobra.Command {
	var (
		output choice
		once   bool
		every  time.Duration
	)
	cmd := &cobra.Command{
		Use:     "top",
		Short:   "Show what goes on, live",
		GroupID: groupManage,
		Long: `The same as dmps status, again and again, and of each volume that is attached the
page-ins and page-outs a second and how long they took: p50 and p99 of the requests
of its front ends since the picture before, so of the last second.

A client whose admin address cannot be reached from here has no rates. When the
metadata service does not answer for a while it says so and goes on. The exit code
is that of the last picture, as with dmps status.`,
		Example: `  dmps top
  dmps top --every 5s
  dmps top --once
  dmps top --output json | jq '.volumes[] | {name, read: .io.read.p99_ns}'   # one object a line`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usageError("--every %v: at least 100ms", every)
			}
			meta, err := a.metaSoon(cmd)
			if err != nil {
				return err
			}
			defer meta.Close()
			return a.top(cmd.Context(), meta, every, once, output.value == "json")
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&once, "once", false, "one picture, of one interval")
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often")
	noCompletion(cmd, "every")
	return cmd
}

// topReport is what `dmps top --output json` prints, one object a line.
type topReport struct {
	At       time.Time     `json:"at"`
	Interval time.Duration `json:"interval_ns"` // between this sample and the one before
	statusReport
	Volumes []volumeTop `json:"volumes"`
}

// volumeTop is a volume with what its front ends asked for in the interval.
type volumeTop struct {
	volumeStatus
	IO *volumeIO `json:"io,omitempty"` // absent: its client cannot be asked, or not twice yet
}

type volumeIO struct {
	Read  ioRate `json:"read"`
	Write ioRate `json:"write"`
}

// ioRate is one direction in an interval.
type ioRate struct {
	OpsPerSecond   float64 `json:"ops_per_second"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	P50            int64   `json:"p50_ns"` // 0: there were no requests
	P99            int64   `json:"p99_ns"`
}

// topSample is what is known at a time.
type topSample struct {
	at     time.Time
	report statusReport
	lat    map[string]latencies // by volume; of live clients
}

// top takes samples and shows the difference of each to the one before.
func (a *app) top(ctx context.Context, meta *metaclient.Client, every time.Duration, once, asJSON bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last *topSample
	state := client.StateHealthy
	var shown time.Time // when the last picture was; zero: there was none
	silent := false     // nobody answered the last question
	for {
		now, err := sampleTop(ctx, meta)
		switch {
		case ctx.Err() != nil:
			return statusExit(state)
		case err != nil && (once || shown.IsZero() || !errors.Is(err, client.ErrNoQuorum)):
			return err // cannot tell
		case err != nil:
			if !silent {
				a.tellSilence(shown, err)
			}
			last, silent = nil, true
		default:
			state = now.report.State
			shown, silent = now.at, false
			if last != nil || !once {
				if err := a.printTop(diffTop(last, now), asJSON); err != nil {
					return err
				}
				if once {
					return statusExit(state)
				}
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return statusExit(state)
		case <-tick.C:
		}
	}
}

func sampleTop(ctx context.Context, meta *metaclient.Client) (*topSample, error) {
	r, err := gatherStatus(ctx, meta)
	if err != nil {
		return nil, err
	}
	s := &topSample{at: time.Now(), report: r, lat: map[string]latencies{}}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, v := range r.Volumes {
		if !v.Live {
			continue
		}
		wg.Go(func() {
			// A client that answered a moment ago and does not now has no rates.
			if l, err := fetchLatencies(ctx, v.Lease.AdminURL); err == nil {
				mu.Lock()
				s.lat[v.Name] = l
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return s, nil
}

// diffTop is what happened between two samples; before may be nil.
func diffTop(before, now *topSample) topReport {
	r := topReport{At: now.at.UTC(), statusReport: now.report, Volumes: make([]volumeTop, len(now.report.Volumes))}
	if before != nil {
		r.Interval = now.at.Sub(before.at)
	}
	for i, v := range now.report.Volumes {
		r.Volumes[i].volumeStatus = v
		if before == nil || v.Report == nil {
			continue
		}
		n, ok := now.lat[v.Name]
		b, had := before.lat[v.Name]
		old := before.volume(v.Name)
		if !ok || !had || old == nil || old.Report == nil || n.Epoch != b.Epoch {
			continue
		}
		took := n.At.Sub(b.At).Seconds()
		if took <= 0 {
			continue
		}
		r.Volumes[i].IO = &volumeIO{
			Read:  rateOf("read", v.Report.Counters, old.Report.Counters, &n.Read, &b.Read, took),
			Write: rateOf("write", v.Report.Counters, old.Report.Counters, &n.Write, &b.Write, took),
		}
	}
	return r
}

func (s *topSample) volume(name string) *volumeStatus {
	for i := range s.report.Volumes {
		if s.report.Volumes[i].Name == name {
			return &s.report.Volumes[i]
		}
	}
	return nil
}

func rateOf(dir string, now, before map[string]int64, lat, latBefore *client.Buckets, took float64) ioRate {
	per := func(name string) float64 { return float64(max(now[name]-before[name], 0)) / took }
	return ioRate{
		OpsPerSecond: per(dir + "_ops"), BytesPerSecond: per(dir + "_bytes"),
		P50: int64(lat.Quantile(latBefore, 0.5)), P99: int64(lat.Quantile(latBefore, 0.99)),
	}
}

func (a *app) printTop(r topReport, asJSON bool) error {
	if asJSON {
		return printLine(a.out, r)
	}
	var text strings.Builder
	if err := renderTop(&text, r, paletteFor(a.out)); err != nil {
		return err
	}
	out := text.String()
	if columns, lines := termSize(a.out); columns > 0 {
		out = screen(out, columns, lines)
	} else {
		out += "\n"
	}
	if _, err := io.WriteString(a.out, out); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// renderTop writes a picture for people.
func renderTop(w io.Writer, r topReport, p palette) error {
	if err := headline(r.statusReport, p).print(w); err != nil {
		return err
	}
	if err := renderParts(w, topTable(r.Volumes, p)); err != nil {
		return err
	}
	renderTrouble(w, r.statusReport, p, r.At)
	return renderParts(w, serverTable(r.Servers, p))
}

func topTable(volumes []volumeTop, p palette) *table {
	var t table
	t.row(p.head("VOLUME", "STATE", "CAN LOSE", "IN/S", "IN", "P50", "P99", "OUT/S", "OUT", "P50", "P99", "ATTACHED TO")...)
	for i := range volumes {
		v := &volumes[i]
		row := []string{v.Name, p.state(string(v.State)), canLose(&v.Volume)}
		if io := v.IO; io != nil {
			row = append(append(row, io.Read.cells()...), io.Write.cells()...)
		} else {
			row = append(row, "-", "-", "-", "-", "-", "-", "-", "-")
		}
		row = append(row, holder(v.Lease))
		if notes := volumeNotes(&v.volumeStatus, p); notes != "" {
			row = append(row, notes)
		}
		t.row(row...)
	}
	return &t
}

func (r ioRate) cells() []string {
	return []string{fmt.Sprintf("%.0f", r.OpsPerSecond), human(uint64(r.BytesPerSecond)) + "/s", shortTime(r.P50), shortTime(r.P99)}
}

// shortTime prints nanoseconds with three digits.
func shortTime(ns int64) string {
	if ns == 0 {
		return "-"
	}
	x, unit := float64(ns), "ns"
	for _, larger := range []string{"µs", "ms", "s"} {
		if x < 999.5 {
			break
		}
		x, unit = x/1000, larger
	}
	digits := 2
	switch {
	case unit == "ns" || x >= 99.95:
		digits = 0
	case x >= 9.995:
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, x, unit)
}
