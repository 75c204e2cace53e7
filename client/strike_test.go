package client

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// A server that falls silent now and then is suspected, and used again as soon as it
// answers: only many times within a short while put it on probation.
func TestSilentNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages = 64
		f := newSlowNet(3)
		v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 1, 200))
		defer closeTest(t, v)
		if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, raid.PageSize)
		narrow := func(on bool) {
			f.mu.Lock()
			f.servers["s1"].narrow = on
			f.mu.Unlock()
		}
		for i := range 2 * strikesMost {
			narrow(true)
			lost := v.Report().Counters["sessions_lost"]
			for p := int64(0); v.Report().Counters["sessions_lost"] == lost; p++ {
				if p > 10000 {
					t.Fatal("it is never suspected")
				}
				if _, err := v.ReadAt(b, p%pages*raid.PageSize); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond)
			}
			if rep := v.Report(); len(rep.Probation) != 0 {
				t.Fatalf("on probation after %d silences: %v", i+1, rep.Probation)
			}
			narrow(false)
			waitFor(t, func() bool { return v.Report().State == StateHealthy })
			time.Sleep(strikesWithin)
		}
	})
}
