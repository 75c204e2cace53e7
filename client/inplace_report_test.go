package client

import (
	"testing"
	"time"

	"dmps/raid"
)

// Of a volume in place all pages of a chunk that is gone are lost, however often they
// are read, also when it was gone before; and while its server is merely away it is
// not called healthy.
func TestReportInPlace(t *testing.T) {
	for kind, want := range map[raid.LayoutKind]uint64{raid.LayoutLinear: 30, raid.LayoutStriped: 65} {
		t.Run(kind.String(), func(t *testing.T) { virtual(func(t *testing.T) { testReportInPlace(t, kind, want) })(t) })
	}
}

func testReportInPlace(t *testing.T, kind raid.LayoutKind, lost uint64) {
	f := newSlowNet(2)
	l := f.layout(kind, raid.Geometry{K: 1}, 130, 2, 100)
	v := openTest(t, f, l)
	f.away("s1", true)
	waitFor(t, func() bool { return len(v.Report().Suspect) == 1 })
	for _, want := range []State{StateDegraded, StateFailed} { // at first, and after some seconds
		if r := v.Report(); r.State != want || r.RedundancyLeft != -1 || r.LostPages != 0 {
			t.Errorf("away: %s, not %s, %d left, %d pages lost", r.State, want, r.RedundancyLeft, r.LostPages)
		}
		time.Sleep(failedAfter)
	}
	f.away("s1", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	f.kill("s1")
	f.restart("s1")
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return peerOf(v, "s1").state == peerGone })
	const pages = 130
	check := func(v *Volume) {
		t.Helper()
		failed := uint64(0)
		for range 2 {
			for p := range int64(pages) {
				if _, err := v.ReadAt(make([]byte, raid.PageSize), p*raid.PageSize); err != nil {
					failed++
				}
			}
		}
		if r := v.Report(); r.State != StateFailed || r.LostPages != lost || failed != 2*lost || r.DegradedGroups != 1 || r.RedundancyLeft != -1 {
			t.Errorf("%s, %d pages lost, %d reads of two each failed, want %d; %d groups degraded, %d left", r.State, r.LostPages, failed, lost, r.DegradedGroups, r.RedundancyLeft)
		}
		if n := v.Report().Counters["lost_page_ins"]; n != int64(failed) {
			t.Errorf("%d page-ins of lost pages, want %d", n, failed)
		}
	}
	check(v)
	closeTest(t, v)
	next := *l
	next.Epoch, next.FirstEpoch = 2, false
	next.Groups = cloneGroups(l.Groups)
	next.Groups[1].Members[0].State = raid.MemberLost
	v = openTest(t, f, &next, func(c *Config) { c.AcceptLoss = true })
	defer closeTest(t, v)
	check(v)
}
