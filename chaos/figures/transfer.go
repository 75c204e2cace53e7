package figures

import (
	"fmt"
	"slices"
)

// TransferRow is what one carrier did with transfers of one size between two
// processes on one machine.
type TransferRow struct {
	Carrier string  `json:"carrier"`
	Op      string  `json:"op"`     // Read or Write
	Way     string  `json:"way"`    // OneByOne or Several
	Asked   int     `json:"asked"`  // bytes: the place on the horizontal axis
	Size    int     `json:"size"`   // bytes that one transfer really moved
	Round   int     `json:"round"`  // carriers took turns: all of a round, then the next
	Count   int     `json:"count"`  // transfers
	P50     float64 `json:"p50_us"` // of OneByOne
	Min     float64 `json:"min_us"` // of OneByOne
	CPU     float64 `json:"server_cpu_us"`
	Moved
}

// Ways to transfer.
const (
	OneByOne = "one by one" // the next when the last has ended: its time is the round trip
	Several  = "several"    // as many in flight as are 4 MiB, at most 32
)

// Carriers, raw ones without anything of dmps around them.
const (
	CarrierSockets  = "raw sockets"
	CarrierRawTCP   = "raw libfabric, tcp"
	CarrierRawShm   = "raw libfabric, shm"
	CarrierRawVerbs = "raw libfabric, verbs"
	CarrierTCP      = "dmps, tcp"
	CarrierFabTCP   = "dmps, fabric+tcp"
	CarrierFabShm   = "dmps, fabric+shm"
	CarrierFabVerbs = "dmps, fabric+verbs"
)

// Raw reports whether a carrier has nothing of dmps around it.
func Raw(carrier string) bool {
	return carrier == CarrierSockets || carrier == CarrierRawTCP || carrier == CarrierRawShm || carrier == CarrierRawVerbs
}

// Carriers of a figure in the order in which they take turns.
func Carriers(figure string) []string {
	if figure == FigureVerbs {
		return []string{CarrierSockets, CarrierTCP, CarrierRawVerbs, CarrierFabVerbs}
	}
	return []string{CarrierSockets, CarrierTCP, CarrierRawTCP, CarrierFabTCP, CarrierRawShm, CarrierFabShm}
}

// Figures of docs/transport.
const (
	FigureTransfer = "transfer"       // measured without a guest
	FigureVerbs    = "transfer-verbs" // in a guest with soft RoCE
)

// Bar is a number that was asked for, and what was measured.
type Bar struct {
	What     string
	Values   []float64 // one a round
	Best     float64   // of the best of all rounds against the best of all rounds
	Limit    float64
	AtLeast  bool // Limit is a lower one
	Unjudged bool // there is no limit: it is for comparison
}

// Median of the rounds.
func (b Bar) Median() float64 {
	v := slices.Sorted(slices.Values(b.Values))
	if len(v) == 0 {
		return 0
	}
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// Met reports whether the median is on the right side of the limit.
func (b Bar) Met() bool {
	switch {
	case b.Unjudged:
		return true
	case b.AtLeast:
		return b.Median() >= b.Limit
	}
	return len(b.Values) > 0 && b.Median() <= b.Limit
}

// String is a line of a report.
func (b Bar) String() string {
	if b.Unjudged {
		return fmt.Sprintf("%-62s %6.2f", b.What, b.Median())
	}
	sign, word := "<=", "met"
	if b.AtLeast {
		sign = ">="
	}
	if !b.Met() {
		word = "NOT MET"
	}
	v := slices.Sorted(slices.Values(b.Values))
	if len(v) == 0 {
		return fmt.Sprintf("%-62s not measured", b.What)
	}
	return fmt.Sprintf("%-62s %6.2f (rounds %.2f to %.2f, best against best %.2f), %s %.1f: %s", b.What, b.Median(), v[0], v[len(v)-1], b.Best, sign, b.Limit, word)
}

// TransferBars are those of the issue that the data can tell: bandwidth and round
// trip against raw libfabric, what larger transfers bring, CPU of the server.
func TransferBars(figure string, rows []TransferRow) []Bar {
	var bars []Bar
	ours := map[string]string{CarrierFabTCP: CarrierRawTCP, CarrierFabShm: CarrierRawShm, CarrierFabVerbs: CarrierRawVerbs}
	for _, c := range Carriers(figure) {
		if ours[c] == "" {
			continue
		}
		for _, op := range []string{Write, Read} {
			large := func(carrier string, size int) cell { return cell{carrier, op, Several, size} }
			one := func(carrier string, size int) cell { return cell{carrier, op, OneByOne, size} }
			rate := func(r TransferRow) float64 { return r.MBps() }
			bars = append(bars,
				ratio(rows, fmt.Sprintf("%s, %s: bandwidth at 128 KiB, of raw libfabric's", c, op), large(c, 128<<10), large(ours[c], 128<<10), rate, slices.Max, 0.9, true),
				ratio(rows, fmt.Sprintf("%s, %s: median round trip of 4 KiB, of raw libfabric's", c, op), one(c, 4<<10), one(ours[c], 4<<10),
					func(r TransferRow) float64 { return r.P50 }, slices.Min, 1.3, false),
				ratio(rows, fmt.Sprintf("%s, %s: bandwidth at 128 KiB, of that at 4 KiB", c, op), large(c, 128<<10), large(c, 4<<10), rate, slices.Max, 3, true),
			)
		}
	}
	for _, c := range Carriers(figure) {
		if Raw(c) {
			continue
		}
		for _, op := range []string{Write, Read} {
			for _, way := range []string{OneByOne, Several} {
				b := Bar{What: fmt.Sprintf("%s, %s of 4 KiB %s: CPU of the server, us a page", c, op, way), Unjudged: true}
				for _, r := range rows {
					if (cell{c, op, way, 4 << 10}).holds(r) && r.Count > 0 {
						b.Values = append(b.Values, r.CPU)
					}
				}
				bars = append(bars, b)
			}
		}
	}
	return bars
}

// cell is what the rows of all rounds have in common.
type cell struct {
	carrier, op, way string
	size             int
}

func (c cell) holds(r TransferRow) bool {
	return r.Carrier == c.carrier && r.Op == c.op && r.Way == c.way && r.Asked == c.size
}

// ratio is that of two cells, round by round: what disturbs one disturbs the
// other, which came soon after. best chooses the best of several.
func ratio(rows []TransferRow, what string, a, b cell, of func(TransferRow) float64, best func([]float64) float64, limit float64, atLeast bool) Bar {
	bar := Bar{What: what, Limit: limit, AtLeast: atLeast}
	var as, bs []float64
	for _, r := range rows {
		if !a.holds(r) {
			continue
		}
		for _, q := range rows {
			if b.holds(q) && q.Round == r.Round && of(q) > 0 {
				bar.Values = append(bar.Values, of(r)/of(q))
				as, bs = append(as, of(r)), append(bs, of(q))
			}
		}
	}
	if len(as) > 0 {
		bar.Best = best(as) / best(bs)
	}
	return bar
}
