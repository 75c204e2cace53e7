package client

import (
	"errors"
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// What a server held that was restarted is counted as gone: its rows are degraded,
// and with more servers than the redundancy can bear the pages are lost that cannot
// be read any more, no more and no fewer.
func TestRestartedServersHoldNothing(t *testing.T) { virtual(testRestartedServersHoldNothing)(t) }

func testRestartedServersHoldNothing(t *testing.T) {
	const pages = 256
	f := newSlowNet(6)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 6, 128))
	defer closeTest(t, v)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	restart := func(id raid.ServerID) {
		f.kill(string(id))
		f.restart(string(id))
		waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return peerOf(v, id).state == peerGone })
	}
	if r := v.Report(); r.DegradedRows != 0 {
		t.Fatalf("%+v", r)
	}
	restart("s0")
	if r := v.Report(); r.DegradedRows == 0 || r.LostPages != 0 || r.State != StateDegraded {
		t.Errorf("one server: %d rows degraded, %d pages lost, %s", r.DegradedRows, r.LostPages, r.State)
	}
	restart("s1")
	lost := uint64(0)
	b := make([]byte, raid.PageSize)
	for p := range int64(pages) {
		if _, err := v.ReadAt(b, p*raid.PageSize); errors.Is(err, ErrLost) {
			lost++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if r := v.Report(); lost == 0 || uint64(r.LostPages) != lost || r.State != StateFailed {
		t.Errorf("two servers: %d pages lost, %d cannot be read, %s", r.LostPages, lost, r.State)
	}
}
