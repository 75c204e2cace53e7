package client

import (
	"testing"
	"time"

	"dmps/raid"
)

// When this process does not run for longer than the hard deadline, with requests
// on their way to everybody, what it did not hear meanwhile is held against
// nobody.
func TestStarvedWatchSuspectsNobody(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	v := openTest(t, f, l, func(c *Config) { c.HardDeadline = 600 * time.Millisecond })
	for round := range 3 {
		for _, id := range []string{"s0", "s1", "s2"} {
			f.freeze(id)
		}
		done := make(chan error, 1)
		go func() {
			_, err := v.WriteAt(make([]byte, raid.PageSize), 0)
			if err == nil {
				page := make([]byte, raid.PageSize)
				page[round] = 1
				_, err = v.WriteAt(page, raid.PageSize)
			}
			done <- err
		}()
		// The watch waits for this lock, and with it everything else.
		for busy := false; !busy; time.Sleep(time.Millisecond) {
			v.mu.Lock()
			busy = v.mu.flying > 0
			v.mu.Unlock()
		}
		v.mu.Lock()
		time.Sleep(1500 * time.Millisecond) // the stall that is tried
		v.mu.Unlock()
		// Answers come a moment after the process runs again.
		time.Sleep(20 * time.Millisecond)
		for _, id := range []string{"s0", "s1", "s2"} {
			f.thaw(id)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := v.Report().Counters["sessions_lost"]; n != 0 {
		t.Errorf("%d sessions were ended because this process stood still", n)
	}
	closeTest(t, v)
}

// What a caretaker counts for page buffers is enough for the widest geometry.
func TestBuffersWithoutFrontEnd(t *testing.T) {
	const allowed = 64 << 20 // care.Need
	for _, g := range []raid.Geometry{{K: raid.MaxData, M: raid.MaxParity}, {K: 1, M: raid.MaxParity}, {K: 4, M: 2}} {
		c := Config{Layout: &raid.Layout{Geometry: g}, NoFrontEnd: true}
		n := (c.userBufs() + c.scratchBufs() + c.mergeBufs() + c.moveBufs() + c.probeBufs() + c.batchBufs() + c.recordBufs() + 256) * (raid.PageSize + headerStride)
		n += recoverWorkers * g.Members() * 128 << 10
		if n > allowed {
			t.Errorf("%v: %d bytes, more than the %d that are counted", g, n, allowed)
		}
	}
}
