package client

import (
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// TestReadsMeetBadBytes: whichever way a page-in takes, a slot that is wrong is
// found, counted by the server that holds it, and filled again from the others,
// also when the page came another way.
func TestReadsMeetBadBytes(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	const page = 5
	for name, c := range map[string]struct {
		bad   func(own raid.Col) raid.Col // the column whose slot is wrong
		at    int                         // byte, header after page
		down  bool                        // the page's own server
		delay map[bool]time.Duration      // of the page's own server (true), and of the bad one
	}{
		"its own page":         {bad: func(own raid.Col) raid.Col { return own }, at: 5},
		"its own header":       {bad: func(own raid.Col) raid.Col { return own }, at: raid.PageSize + 9},
		"a source":             {bad: func(own raid.Col) raid.Col { return (own + 1) % 4 }, at: 5, down: true},
		"a source's header":    {bad: func(own raid.Col) raid.Col { return (own + 1) % 4 }, at: raid.PageSize + 9, down: true},
		"a parity source":      {bad: func(raid.Col) raid.Col { return 4 }, at: 5, down: true},
		"a parity's header":    {bad: func(raid.Col) raid.Col { return 4 }, at: raid.PageSize + 50, down: true},
		"a hedge, in time":     {bad: func(own raid.Col) raid.Col { return (own + 1) % 4 }, at: 5, delay: map[bool]time.Duration{true: 150 * time.Millisecond}},
		"a hedge, too late":    {bad: func(own raid.Col) raid.Col { return (own + 1) % 4 }, at: 5, delay: map[bool]time.Duration{true: 80 * time.Millisecond, false: 250 * time.Millisecond}},
		"overtaken by a hedge": {bad: func(own raid.Col) raid.Col { return own }, at: 5, delay: map[bool]time.Duration{true: 150 * time.Millisecond}},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			r := newScrubRig(t, 6)
			v := r.open(r.layout(g, 64, 1, 64), func(c *Config) { c.SuspectAfter = 10 * time.Second })
			defer closeTest(t, v)
			version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
			v.mu.Lock()
			p := v.mu.log.Place(v.mu.log.Lookup(page).Slot)
			v.mu.Unlock()
			members := v.layout.Groups[0].Members
			own, col := members[p.Col], c.bad(p.Col)
			r.flip(members[col], p.Index, raid.HeaderBytes(g, col), c.at)
			if c.down {
				r.hosts[own.Addr].Down(true)
				for v.Report().State == StateHealthy {
					time.Sleep(time.Millisecond)
				}
			}
			for of, d := range c.delay {
				if of {
					r.hosts[own.Addr].Delay(d)
				} else {
					r.hosts[members[col].Addr].Delay(d)
				}
			}
			b := make([]byte, raid.PageSize)
			if _, err := v.ReadAt(b, page*raid.PageSize); err != nil {
				t.Fatal(err)
			}
			if err := stamped(b, page, version[page]); err != nil {
				t.Fatal(err)
			}
			if n := v.Report().Counters["hedged_reads"]; c.delay != nil && n == 0 {
				t.Error("no hedge: the case does not test what it says")
			}
			for end := time.Now().Add(10 * time.Second); v.Report().BadSlots[members[col].Server] == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the slot was not found to be wrong")
				}
			}
			for _, h := range r.hosts {
				h.Down(false)
				h.Delay(lag)
			}
			for end := time.Now().Add(10 * time.Second); v.Report().State != StateHealthy; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("not filled again: %+v", v.Report())
				}
			}
			clean(t, v)
			rep := v.Report()
			if len(rep.BadSlots) != 1 || rep.BadSlots[members[col].Server] != 1 || rep.Counters["corrupt_pages"] != 1 {
				t.Errorf("%v, corrupt %d", rep.BadSlots, rep.Counters["corrupt_pages"])
			}
		}))
	}
}
