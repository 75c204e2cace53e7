package client

import (
	"errors"
	"math/rand/v2"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// away is a volume of which s2 misses rows that were written while it was away.
func away(t *testing.T) (f *fakeNet, v *Volume, want []byte) {
	t.Helper()
	f = newSlowNet(3)
	v = openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 300))
	f.down("s2", true)
	want = randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	return f, v, want
}

// Rows that a server could not fill are still missed.
func TestFailedRowsAreStillMissed(t *testing.T) { virtual(testFailedRowsAreStillMissed)(t) }

func testFailedRowsAreStillMissed(t *testing.T) {
	f, v, want := away(t)
	defer closeTest(t, v)
	v.mu.Lock()
	m := v.member(0, 2)
	j := &rebuildJob{grp: 0, col: 2, ref: m.ref, peer: m.peer}
	rows, _ := v.mu.log.MissingRows(0, 2, 0, make([]raid.MissingRow, 0, 5))
	before, epoch := v.mu.log.Missing(0, 2), v.mu.epoch
	v.mu.reading[epoch]++
	v.mu.Unlock()
	res := transport.RebuildResult{Failed: []transport.RebuildFailure{{Row: 1}, {Row: 3}}}
	done := v.rebuildDone(j, rows, epoch, res, nil)
	v.mu.Lock()
	left := v.mu.log.Missing(0, 2)
	for i, r := range rows {
		if has := v.mu.log.Holders(0, r.Index)&4 != 0; has != (i != 1 && i != 3) {
			t.Errorf("row %d of the list: held %v", i, has)
		}
		v.mu.log.SetMissed(0, r.Index, 2) // nobody has filled it in truth
	}
	v.mu.Unlock()
	if done != len(rows)-2 || left != before-done {
		t.Errorf("of %d rows, two of which failed, %d are filled, and %d of %d are missed", len(rows), done, left, before)
	}
	f.down("s2", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	compareAll(t, v, want)
}

// When it is not known what became of a fill, the session with its server ends, so
// that nothing of it can land later.
func TestFillOfUnknownOutcomeEndsTheSession(t *testing.T) {
	virtual(testFillOfUnknownOutcome)(t)
}

func testFillOfUnknownOutcome(t *testing.T) {
	f, v, want := away(t)
	defer closeTest(t, v)
	fills := func(err error) {
		f.mu.Lock()
		f.servers["s2"].fills = err
		f.mu.Unlock()
	}
	before := v.Report().Counters["sessions_lost"]
	fills(errors.New("no answer"))
	f.down("s2", false)
	waitFor(t, func() bool { return v.Report().Counters["sessions_lost"] > before })
	fills(nil)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	compareAll(t, v, want)
}
