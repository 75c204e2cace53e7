package peers

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// WriteMarkdown renders the report for people.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# dmps beside its peers\n\n")
	fmt.Fprintf(&b, "Each number is the median of %d rounds of %.1f s; device %d MiB, filled with random data before; "+
		"fio's nbd engine over %s, one connection. Ratios are medians of the ratios within a round.\n\n",
		r.Rounds, float64(r.RuntimeMS)/1000, r.Size>>20, map[string]string{"unix": "a unix socket", "tcp": "TCP on loopback"}[r.Front])
	r.writeEnvironment(&b)
	r.writeBars(&b)
	r.writeFailures(&b)

	names := make([]string, len(r.Contenders))
	for i, c := range r.Contenders {
		names[i] = c.Name
	}
	r.grid(&b, "Throughput (4 KiB: thousand requests a second; 128 KiB: MB/s)", names, func(name string, c Cell) string {
		if c.Block == Large {
			return number(r.medianOf(name, c, func(s Sample) float64 { return s.Bytes / 1e6 }))
		}
		return number(r.medianOf(name, c, func(s Sample) float64 { return s.IOPS / 1e3 }))
	})
	for _, base := range []string{NameNbdkit, NameQuorum} {
		if r.ran(base) {
			r.grid(&b, "Throughput as a multiple of "+base, without(names, base), func(name string, c Cell) string {
				return number(r.ratio(name, base, c))
			})
		}
	}
	for _, p := range []struct {
		title string
		value func(Latency) time.Duration
	}{
		{"Latency, p50 (us)", func(l Latency) time.Duration { return l.P50 }},
		{"Latency, p99 (us)", func(l Latency) time.Duration { return l.P99 }},
		{"Latency, worst of a round (us)", func(l Latency) time.Duration { return l.Max }},
	} {
		r.grid(&b, p.title, names, func(name string, c Cell) string {
			return number(r.medianOf(name, c, func(s Sample) float64 { return float64(p.value(s.Latency)) / 1e3 }))
		})
	}
	r.writeRoundTrips(&b, names)
	r.writeCPU(&b, names)
	r.writeMemory(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) writeEnvironment(b *strings.Builder) {
	e := r.Environment
	rows := [][]string{
		{"when", e.Time.Format(time.RFC3339)},
		{"commit", e.Commit},
		{"CPU", fmt.Sprintf("%s, %d cores, %s", e.CPU, e.Cores, e.Virtual)},
		{"memory", fmt.Sprintf("%d MiB", e.MemoryMiB)},
		{"kernel", e.Kernel},
		{"Go", e.Go},
		{"load average", fmt.Sprintf("%s before, %s after", e.LoadStart, e.LoadEnd)},
	}
	var foreign []float64
	for _, s := range r.Samples {
		if s.Err == "" {
			foreign = append(foreign, 100*s.Foreign)
		}
	}
	if len(foreign) > 0 {
		rows = append(rows, []string{"CPU used by others meanwhile", fmt.Sprintf("median %.0f %%, at most %.0f %%", median(foreign), slices.Max(foreign))})
	}
	for _, t := range []string{"fio", "nbdkit", "nbd-server", "qemu-nbd"} {
		rows = append(rows, []string{t, e.Tools[t]})
	}
	for _, c := range r.Contenders {
		rows = append(rows, []string{"**" + c.Name + "**", c.About})
	}
	table(b, []string{"environment", ""}, rows)
}

func (r *Report) writeBars(b *strings.Builder) {
	b.WriteString("## Wanted\n\n")
	var rows [][]string
	for _, v := range r.Bars {
		if !v.Measured {
			rows = append(rows, []string{v.Bar, "-", "-", "-", "not measured"})
			continue
		}
		verdict := "**not reached**"
		if v.Reached {
			verdict = "reached"
		}
		rows = append(rows, []string{v.Bar, number(v.Value, v.Value < math.MaxFloat64), v.Worst, fmt.Sprintf("%d of %d", v.Good, v.Cells), verdict})
	}
	table(b, []string{"bar", "worst value", "where", "cells that reach it", ""}, rows)
}

func (r *Report) writeFailures(b *strings.Builder) {
	var rows [][]string
	unsettled := map[string]int{}
	for _, s := range r.Samples {
		if s.Err != "" {
			rows = append(rows, []string{s.Contender, s.Cell.String(), fmt.Sprint(s.Round + 1), s.Err})
		} else if !s.Settled {
			unsettled[s.Contender]++
		}
	}
	if len(rows) > 0 {
		b.WriteString("## Measurements that failed\n\n")
		table(b, []string{"contender", "cell", "round", "error"}, rows)
	}
	for _, c := range r.Contenders {
		if n := unsettled[c.Name]; n > 0 {
			fmt.Fprintf(b, "%s was still busy %v after the end of %d measurements; what ran next was disturbed.\n\n", c.Name, settleLimit, n)
		}
	}
}

func (r *Report) writeRoundTrips(b *strings.Builder, names []string) {
	b.WriteString("## Page-in at depth 1 and plain TCP (p50, us)\n\n")
	b.WriteString("Plain TCP is two Go processes on loopback: a request of 28 bytes and a reply of a block, " +
		"and, as \"both ways\", a block there and a block back. The ratio is to the former.\n\n")
	head := []string{"block", "plain TCP", "both ways"}
	for _, n := range names {
		head = append(head, n, "ratio")
	}
	var rows [][]string
	for _, c := range r.Cells {
		if !c.Random || c.Write || c.Depth != 1 {
			continue
		}
		row := []string{fmt.Sprintf("%dk", c.Block>>10), number(r.roundTrip(minRequest, c.Block)), number(r.roundTrip(c.Block, c.Block))}
		for _, n := range names {
			row = append(row,
				number(r.medianOf(n, c, func(s Sample) float64 { return float64(s.Latency.P50) / 1e3 })),
				number(r.latencyRatio(n, c)))
		}
		rows = append(rows, row)
	}
	table(b, head, rows)
}

// roundTrip is the median p50 in microseconds.
func (r *Report) roundTrip(request, reply int) (float64, bool) {
	var us []float64
	for _, rt := range r.RoundTrips {
		if rt.Request == request && rt.Reply == reply {
			us = append(us, float64(rt.P50)/1e3)
		}
	}
	return median(us), len(us) > 0
}

func (r *Report) writeCPU(b *strings.Builder, names []string) {
	r.grid(b, "CPU time a request (us, by role; driver last)", names, func(name string, c Cell) string {
		roles := r.roles(name)
		var parts []string
		for _, role := range roles {
			v, ok := r.medianOf(name, c, func(s Sample) float64 { return s.CPU[role] })
			if !ok {
				return "-"
			}
			parts = append(parts, role+" "+number(v, true))
		}
		return strings.Join(parts, ", ")
	})
	b.WriteString("With what a contender still did after the last request (cleaning). fio's share is the driver's own.\n\n")
}

// roles of a contender that have an account, the driver last.
func (r *Report) roles(name string) []string {
	seen := map[string]bool{}
	for _, s := range r.Samples {
		if s.Contender == name {
			for role := range s.CPU {
				seen[role] = true
			}
		}
	}
	delete(seen, fioRole)
	roles := make([]string, 0, len(seen)+1)
	for role := range seen {
		roles = append(roles, role)
	}
	slices.Sort(roles)
	return append(roles, fioRole)
}

func (r *Report) writeMemory(b *strings.Builder) {
	b.WriteString("## Memory (largest resident size of a process, MiB)\n\n")
	var rows [][]string
	for _, m := range r.Memory {
		limit := "-"
		if m.Limit > 0 {
			limit = fmt.Sprintf("%d", m.Limit>>20)
		}
		rows = append(rows, []string{m.Contender, m.Role, fmt.Sprint(m.Processes), fmt.Sprintf("%.1f", float64(m.Peak)/(1<<20)), limit})
	}
	table(b, []string{"contender", "role", "processes", "peak", "told to use"}, rows)
}

// grid renders one value for each cell and contender.
func (r *Report) grid(b *strings.Builder, title string, names []string, value func(name string, c Cell) string) {
	fmt.Fprintf(b, "## %s\n\n", title)
	rows := make([][]string, 0, len(r.Cells))
	for _, c := range r.Cells {
		row := []string{c.String()}
		for _, n := range names {
			row = append(row, value(n, c))
		}
		rows = append(rows, row)
	}
	table(b, append([]string{"cell"}, names...), rows)
}

// table renders Markdown with aligned columns, readable as plain text too.
func table(b *strings.Builder, head []string, rows [][]string) {
	width := make([]int, len(head))
	clean := func(s string) string { return strings.NewReplacer("|", "/", "\n", " ").Replace(s) }
	for _, row := range append([][]string{head}, rows...) {
		for i, v := range row {
			width[i] = max(width[i], len(clean(v)), 3)
		}
	}
	line := func(row []string) {
		for i, v := range row {
			fmt.Fprintf(b, "| %-*s ", width[i], clean(v))
		}
		b.WriteString("|\n")
	}
	line(head)
	for _, n := range width {
		b.WriteString("|" + strings.Repeat("-", n+2))
	}
	b.WriteString("|\n")
	for _, row := range rows {
		line(row)
	}
	b.WriteString("\n")
}

// number renders three significant digits; - when there is no value.
func number(v float64, ok bool) string {
	switch {
	case !ok:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
