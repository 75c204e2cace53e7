package peers

import (
	"testing"
	"time"
)

// twoRounds is a report of two contenders whose ratio is 0.5 and 0.7 in the
// cells, with a page-in of twice and three times the plain round trip.
func twoRounds(cells ...Cell) *Report {
	r := &Report{Rounds: 2, Cells: cells}
	for round, ratio := range []float64{0.5, 0.7} {
		r.RoundTrips = append(r.RoundTrips, RoundTrip{Request: minRequest, Reply: Small, Round: round, P50: 10 * time.Microsecond})
		for _, c := range cells {
			// The machine is half as fast in the second round: a ratio of medians would be wrong.
			base := 1000 / float64(round+1)
			r.Samples = append(r.Samples,
				Sample{Contender: NameNbdkit, Cell: c, Round: round, IOPS: base, Settled: true},
				Sample{Contender: NameNone, Cell: c, Round: round, IOPS: base * ratio, Settled: true,
					Latency: Latency{P50: time.Duration(20+10*round) * time.Microsecond}})
		}
	}
	return r
}

func TestJudge(t *testing.T) {
	read := Cell{Block: Small, Random: true, Depth: 1}
	write := Cell{Block: Small, Random: true, Write: true, Depth: 1}
	every := func(Cell) bool { return true }
	reads := func(c Cell) bool { return !c.Write }

	slowWrites := twoRounds(read, write)
	for i := range slowWrites.Samples {
		if s := &slowWrites.Samples[i]; s.Contender == NameNone && s.Cell == write {
			s.IOPS /= 10
		}
	}
	failed := twoRounds(read, write)
	failed.Samples[1].Err = "fio's job ended with errno 5" // a read in the first round

	for _, c := range []struct {
		name string
		rep  *Report
		bar  Bar
		want Verdict
	}{
		{"median of the ratios of a round", twoRounds(read), Bar{Contender: NameNone, Against: NameNbdkit, Want: 0.6, Cells: every},
			Verdict{Measured: true, Value: 0.6, Worst: "4k rand read qd1", Reached: true, Cells: 1, Good: 1}},
		{"just not", twoRounds(read), Bar{Contender: NameNone, Against: NameNbdkit, Want: 0.61, Cells: every},
			Verdict{Measured: true, Value: 0.6, Worst: "4k rand read qd1", Cells: 1}},
		{"one slow cell is enough", slowWrites, Bar{Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: every},
			Verdict{Measured: true, Value: 0.06, Worst: "4k rand write qd1", Cells: 2, Good: 1}},
		{"which is not asked about", slowWrites, Bar{Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: reads},
			Verdict{Measured: true, Value: 0.6, Worst: "4k rand read qd1", Reached: true, Cells: 1, Good: 1}},
		{"failed in one round", failed, Bar{Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: every},
			Verdict{Measured: true, Value: 0, Worst: "4k rand read qd1", Cells: 2, Good: 1}},
		{"latency", twoRounds(read), Bar{Contender: NameNone, Want: 2.5, AtMost: true, Cells: reads},
			Verdict{Measured: true, Value: 2.5, Worst: "4k rand read qd1", Reached: true, Cells: 1, Good: 1}},
		{"latency, too much", twoRounds(read), Bar{Contender: NameNone, Want: 2.4, AtMost: true, Cells: reads},
			Verdict{Measured: true, Value: 2.5, Worst: "4k rand read qd1", Cells: 1}},
		{"did not run", twoRounds(read), Bar{Contender: NameRS, Against: NameNbdkit, Want: 0.1, Cells: every}, Verdict{}},
		{"nothing to compare to", twoRounds(read), Bar{Contender: NameNone, Against: NameQuorum, Want: 0.1, Cells: every}, Verdict{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.rep.judge([]Bar{c.bar})[0]
			got.Bar = ""
			if diff := got.Value - c.want.Value; diff > 1e-9 || diff < -1e-9 {
				t.Errorf("value %g, want %g", got.Value, c.want.Value)
			}
			got.Value = c.want.Value
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestJudgeMemory(t *testing.T) {
	r := &Report{Memory: []Memory{
		{Contender: NameNone, Role: RoleServers, Processes: 1, Peak: 103, Limit: 100},
		{Contender: NameNone, Role: "client", Processes: 1, Peak: 999},
	}}
	bar := Bar{Contender: NameNone, Against: againstLimit, Want: 1.02, AtMost: true}
	if v := r.judge([]Bar{bar})[0]; !v.Measured || v.Reached || v.Worst != RoleServers || v.Cells != 1 {
		t.Errorf("3 %% over the limit: %+v", v)
	}
}

// Every bar is about something that a full run measures.
func TestBarsAreMeasured(t *testing.T) {
	known := map[string]bool{"": true, againstLimit: true}
	for _, c := range Contenders() {
		known[c.Name] = true
	}
	for _, b := range Bars() {
		if !known[b.Contender] || !known[b.Against] {
			t.Errorf("%s: unknown contender", b)
		}
		if b.Against == againstLimit {
			continue
		}
		n := 0
		for _, c := range Cells() {
			if b.Cells(c) {
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s: about no cell", b)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		in := append([]float64(nil), c.in...)
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %g, want %g", c.in, got, c.want)
		}
		for i := range in {
			if in[i] != c.in[i] {
				t.Errorf("median changed its argument to %v", c.in)
			}
		}
	}
}
