package peers

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Bar is a ratio that is wanted of a contender.
type Bar struct {
	Name      string // what is wanted, for people
	Contender string
	Against   string // another contender; "" for a plain TCP round trip; limit for its own memory limit
	Want      float64
	AtMost    bool            // else at least
	Cells     func(Cell) bool // which workloads; each must reach it
}

// againstLimit in Bar.Against compares memory to what the process was told to use.
const againstLimit = "limit"

// Bars lists what is wanted of dmps on a machine with two cores.
func Bars() []Bar {
	random4k := func(c Cell) bool { return c.Block == Small && c.Random && !c.Write && c.Depth == 32 }
	seq128k := func(c Cell) bool { return c.Block == Large && !c.Random && c.Depth == 32 }
	deepRead := func(c Cell) bool { return c.Depth == 32 && !c.Write }
	deepWrite := func(c Cell) bool { return c.Depth == 32 && c.Write }
	every := func(Cell) bool { return true }
	pageIn := func(c Cell) bool { return c.Random && !c.Write && c.Depth == 1 }
	bars := []Bar{
		{Name: "4 KiB random read, depth 32", Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: random4k},
		{Name: "128 KiB sequential, depth 32", Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: seq128k},
		{Name: "reads, depth 32", Contender: NameRS, Against: NameNbdkit, Want: 0.45, Cells: deepRead},
		{Name: "writes, depth 32", Contender: NameRS, Against: NameNbdkit, Want: 0.4, Cells: deepWrite},
		{Name: "every cell", Contender: NameMirror, Against: NameQuorum, Want: 2, Cells: every},
		{Name: "every cell", Contender: NameRS, Against: NameQuorum, Want: 2, Cells: every},
	}
	for _, name := range []string{NameNone, NameMirror, NameRS} {
		bars = append(bars, Bar{Name: "p50 of a page-in, depth 1", Contender: name, Want: 2.5, AtMost: true, Cells: pageIn})
	}
	for _, name := range []string{NameNone, NameMirror, NameRS} {
		bars = append(bars, Bar{Name: "peak memory of a server", Contender: name, Against: againstLimit, Want: 1.02, AtMost: true})
	}
	return bars
}

// Verdict is a bar and what was measured for it.
type Verdict struct {
	Bar      string  `json:"bar"`
	Measured bool    `json:"measured"` // else the rest means nothing
	Value    float64 `json:"value"`    // of the worst cell
	Worst    string  `json:"worst"`    // name of the worst cell
	Reached  bool    `json:"reached"`
	Cells    int     `json:"cells"`         // that the bar is about
	Good     int     `json:"cells_reached"` // of them
}

// String says what is wanted.
func (b Bar) String() string {
	sign := ">="
	if b.AtMost {
		sign = "<="
	}
	against := b.Against
	switch against {
	case "":
		against = "plain TCP round trip"
	case againstLimit:
		against = "its --memory"
	}
	return fmt.Sprintf("%s: %s %s %g x %s", b.Contender, b.Name, sign, b.Want, against)
}

// reached compares one value.
func (b Bar) reached(v float64) bool {
	if b.AtMost {
		return v <= b.Want
	}
	return v >= b.Want
}

// judge holds each bar against the report. A cell that a bar is about and
// that failed counts as not reached; a bar about a contender that did not
// run is not measured.
func (r *Report) judge(bars []Bar) []Verdict {
	var all []Verdict
	for _, b := range bars {
		v := Verdict{Bar: b.String()}
		for cell, value := range r.values(b) {
			v.Cells++
			good := b.reached(value)
			if good {
				v.Good++
			}
			if !v.Measured || worse(b, value, v.Value) || value == v.Value && cell < v.Worst {
				v.Value, v.Worst = value, cell
			}
			v.Measured = true
		}
		v.Reached = v.Measured && v.Good == v.Cells
		all = append(all, v)
	}
	return all
}

func worse(b Bar, v, than float64) bool {
	if b.AtMost {
		return v > than
	}
	return v < than
}

// values gives the ratio of each cell that a bar is about. A cell that failed
// has the worst ratio there is.
func (r *Report) values(b Bar) map[string]float64 {
	out := map[string]float64{}
	if b.Against == againstLimit {
		for _, m := range r.Memory {
			if m.Contender == b.Contender && m.Limit > 0 {
				out[m.Role] = float64(m.Peak) / float64(m.Limit)
			}
		}
		return out
	}
	if !r.ran(b.Contender) || b.Against != "" && !r.ran(b.Against) {
		return out
	}
	for _, c := range r.Cells {
		if !b.Cells(c) {
			continue
		}
		var v float64
		var ok bool
		if b.Against == "" {
			v, ok = r.latencyRatio(b.Contender, c)
		} else {
			v, ok = r.ratio(b.Contender, b.Against, c)
		}
		if !ok && b.AtMost {
			v = math.MaxFloat64 // JSON has no infinity
		}
		out[c.String()] = v
	}
	return out
}

func (r *Report) ran(name string) bool {
	return slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Contender == name })
}

// ratio is how many times faster a contender is than another in a cell: the
// median over the rounds of the ratio within a round. False when a sample failed
// or is missing.
func (r *Report) ratio(name, than string, c Cell) (float64, bool) {
	var ratios []float64
	for round := range r.Rounds {
		a, okA := r.sample(name, c, round)
		b, okB := r.sample(than, c, round)
		if !okA || !okB || b.IOPS == 0 {
			return 0, false
		}
		ratios = append(ratios, a.IOPS/b.IOPS)
	}
	return median(ratios), len(ratios) > 0
}

// latencyRatio compares p50 to a plain TCP exchange of a small request and a
// reply of the same size, within each round.
func (r *Report) latencyRatio(name string, c Cell) (float64, bool) {
	var ratios []float64
	for round := range r.Rounds {
		s, ok := r.sample(name, c, round)
		i := slices.IndexFunc(r.RoundTrips, func(rt RoundTrip) bool {
			return rt.Round == round && rt.Reply == c.Block && rt.Request == minRequest
		})
		if !ok || i < 0 {
			return 0, false
		}
		ratios = append(ratios, float64(s.Latency.P50)/float64(r.RoundTrips[i].P50))
	}
	return median(ratios), len(ratios) > 0
}

// sample finds a measurement that did not fail.
func (r *Report) sample(name string, c Cell, round int) (Sample, bool) {
	i := slices.IndexFunc(r.Samples, func(s Sample) bool {
		return s.Contender == name && s.Cell == c && s.Round == round && s.Err == ""
	})
	if i < 0 {
		return Sample{}, false
	}
	return r.Samples[i], true
}

// medianOf is the median over the rounds of a value of a cell. False when a
// sample failed or is missing: half of the rounds is not what was promised.
func (r *Report) medianOf(name string, c Cell, value func(Sample) float64) (float64, bool) {
	var vs []float64
	for round := range r.Rounds {
		s, ok := r.sample(name, c, round)
		if !ok {
			return 0, false
		}
		vs = append(vs, value(s))
	}
	return median(vs), len(vs) > 0
}

// median of an even number of values is the mean of the two in the middle.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return (v[mid-1] + v[mid]) / 2
}

// micros renders a latency in microseconds.
func micros(d time.Duration) string {
	return fmt.Sprintf("%.1f us", float64(d)/float64(time.Microsecond))
}
