package figures

import (
	"strings"
	"testing"
)

func TestTransferBars(t *testing.T) {
	var rows []TransferRow
	for round, slow := range []float64{1, 3, 1} { // the second round was disturbed: in both
		for _, c := range Carriers(FigureTransfer) {
			for _, op := range []string{Read, Write} {
				for _, size := range []int{4 << 10, 128 << 10} {
					us := 10 * slow
					if c == CarrierFabTCP && op == Write {
						us *= 1.4
					}
					rows = append(rows,
						TransferRow{Carrier: c, Op: op, Way: OneByOne, Asked: size, Round: round, Count: 1, P50: us, CPU: us / 2},
						TransferRow{Carrier: c, Op: op, Way: Several, Asked: size, Round: round, Count: 1, Moved: Moved{Bytes: int64(size), Seconds: us / 1e6}})
				}
			}
		}
	}
	var failed []string
	for _, b := range TransferBars(FigureTransfer, rows) {
		if len(b.Values) != 3 {
			t.Errorf("%q has %d rounds", b.What, len(b.Values))
		}
		if !b.Met() {
			failed = append(failed, b.String())
		}
	}
	if len(failed) != 2 || !strings.Contains(failed[0], "bandwidth at 128 KiB, of raw") || !strings.Contains(failed[0], "0.71") ||
		!strings.Contains(failed[1], "round trip") || !strings.Contains(failed[1], "1.40 (rounds 1.40 to 1.40, best against best 1.40), <= 1.3: NOT MET") {
		t.Errorf("not met:\n%s", strings.Join(failed, "\n"))
	}
	for _, b := range TransferBars(FigureVerbs, nil) {
		if !b.Unjudged && b.Met() {
			t.Errorf("met without a measurement: %q", b.What)
		}
	}
	if bars := TransferBars(FigureVerbs, nil); !strings.HasPrefix(bars[0].What, CarrierFabVerbs+", ") {
		t.Errorf("the first one of verbs is %q", bars[0].What)
	}
}
