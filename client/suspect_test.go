package client

import (
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// When this process did not run for a while, whoever has not answered meanwhile is
// not suspected for it, although others had answered just before.
func TestNobodyIsSuspectedForAStall(t *testing.T) {
	f := newSlowNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512), func(c *Config) {
		c.SuspectAfter, c.HardDeadline = 500*time.Millisecond, time.Minute
	})
	defer closeTest(t, v)
	inFlight := func(id raid.ServerID) bool {
		p := peerOf(v, id)
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.mu.oldest != nil
	}
	f.freeze("s1")
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), 2*raid.PageSize), 0)
		done <- err
	}()
	waitFor(t, func() bool { return inFlight("s1") && !inFlight("s0") && !inFlight("s2") })
	v.mu.Lock() // the watch waits for it, and with it everything else
	time.Sleep(700 * time.Millisecond)
	v.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	f.thaw("s1")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := v.Report().Counters["sessions_lost"]; n != 0 {
		t.Errorf("%d sessions were ended because this process stood still", n)
	}
}

// No more servers are suspected than may be missing: of the others only the hard
// deadline says that they are away.
func TestNoMoreAreSuspectedThanMayBeMissing(t *testing.T) { virtual(testNoMoreAreSuspected)(t) }

func testNoMoreAreSuspected(t *testing.T) {
	const pages = 256
	f := newSlowNet(5)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 5, 300), func(c *Config) {
		c.SuspectAfter, c.HardDeadline = 100*time.Millisecond, time.Minute
	})
	defer closeTest(t, v)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	f.freeze("s1")
	f.freeze("s3")
	var reads []*Op
	for p := range int64(pages) {
		reads = append(reads, page(OpRead, p, 1))
	}
	done := submitted(t, v, reads...)
	for range 100 { // the others are heard all the time
		time.Sleep(10 * time.Millisecond)
		v.Kick()
		if rep := v.Report(); len(rep.Suspect) > 1 {
			t.Fatalf("suspected are %v", rep.Suspect)
		}
	}
	if rep := v.Report(); len(rep.Suspect) != 1 {
		t.Errorf("suspected are %v", rep.Suspect)
	}
	f.thaw("s1")
	f.thaw("s3")
	for range reads {
		op := answer(t, done)
		if op.Err != nil {
			t.Error(op.Err)
		}
		v.Free(op.Bufs)
	}
}
