package heal

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Table prints the report for people.
func (r *Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "dead\tguard\twhen\tp50\tp99\tmax\treads/s\tp99/healthy\trebuild")
	for _, b := range r.Rebuilds {
		for _, l := range []struct {
			when string
			Latency
		}{{"healthy", b.Healthy}, {"dead", b.Degraded}, {"rebuild", b.During}} {
			speed := ""
			if l.when == "rebuild" {
				speed = fmt.Sprintf("%v, %.0f MiB/s", b.Took.Round(time.Millisecond), b.BytesPerSecond()/(1<<20))
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%v\t%v\t%v\t%.0f\t%.2f\t%s\n", b.Dead, b.Guard, l.when, l.P50, l.P99, l.Max, l.PerSecond,
				float64(l.P99)/float64(max(b.Healthy.P99, 1)), speed)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	idle := r.Idle.BytesPerSecond()
	fmt.Fprintf(w, "\nwithout load: %.0f MiB/s in %v, %.2f of one TCP stream of 128 KiB messages (%.0f MiB/s)\n",
		idle/(1<<20), r.Idle.Took.Round(time.Millisecond), idle/r.StreamBytes, r.StreamBytes/(1<<20))
	if n := len(r.Stalls); n > 0 {
		s := slices.Sorted(slices.Values(r.Stalls))
		_, err := fmt.Fprintf(w, "longest request of %d faults: p50 %v, p90 %v, p100 %v\n", n, s[n/2], s[n*9/10], s[n-1])
		return err
	}
	return nil
}
