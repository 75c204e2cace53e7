package client

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// A server to which small packets pass, and pages do not, is suspected a few times
// and then left alone, at growing intervals; it is used again when pages pass.
func TestProbation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := raid.Geometry{K: 2, M: 1}
		f := newFakeNet(4)
		v := openTest(t, f, f.layout(raid.LayoutLog, g, 256, 4, 300))
		defer closeTest(t, v)
		r := rand.New(rand.NewPCG(1, 1))
		want := randomBytes(r, 256*raid.PageSize)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		load := func(d time.Duration) {
			var wg sync.WaitGroup
			end := time.Now().Add(d)
			for i := range 3 {
				r := rand.New(rand.NewPCG(r.Uint64(), 1))
				wg.Go(func() {
					for ; time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
						b, p := randomBytes(r, raid.PageSize), r.IntN(256)
						if i > 0 {
							if _, err := v.ReadAt(b, int64(p)*raid.PageSize); err != nil {
								t.Error(err)
							}
							continue
						}
						if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
							t.Error(err)
						}
						copy(want[p*raid.PageSize:], b)
					}
				})
			}
			wg.Wait()
		}
		narrow := func(on bool) {
			f.mu.Lock()
			f.servers["s1"].narrow = on
			f.mu.Unlock()
		}
		narrow(true)
		before := v.Report().Counters["sessions_lost"]
		load(5 * time.Minute)
		rep := v.Report()
		if n := rep.Counters["sessions_lost"] - before; n > 2*strikesMost {
			t.Errorf("%d sessions were used and lost in five minutes", n)
		}
		if !slices.Equal(rep.Probation, []raid.ServerID{"s1"}) || rep.Counters["members_on_probation"] != 3 || rep.State != StateDegraded {
			t.Errorf("on probation %v, %d members, %s", rep.Probation, rep.Counters["members_on_probation"], rep.State)
		}
		if !slices.Contains(rep.Suspect, "s1") {
			t.Error("it does not count as away")
		}
		v.mu.Lock()
		if w := peerOf(v, "s1").probation.wait; w != probationMost {
			t.Errorf("after five minutes it is tried every %v", w)
		}
		v.mu.Unlock()
		narrow(false)
		start := time.Now()
		for v.Report().State != StateHealthy {
			load(100 * time.Millisecond)
			if time.Since(start) > 2*probationMost {
				t.Fatalf("not healthy again: %+v", v.Report())
			}
		}
		if rep := v.Report(); len(rep.Probation) != 0 {
			t.Errorf("still on probation: %v", rep.Probation)
		}
		compareAll(t, v, want)
	})
}

// Who is on probation is tried each second while requests wait for members.
func TestProbationIsShortWhereMembersAreMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(3)
		v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100), func(c *Config) { c.Patience = 10 * time.Second })
		defer closeTest(t, v)
		want := randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		p := peerOf(v, "s1")
		v.mu.Lock()
		p.probation = probation{on: true, strikes: strikesMost, last: nanotime(), wait: probationMost}
		v.mu.Unlock()
		f.cut("s1")
		f.down("s2", true)
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		compareAll(t, v, want)
		if took := time.Since(start); took > 2*probationFirst {
			t.Errorf("a page that needs it was read after %v", took)
		}
	})
}

// Silence of everybody is no sign against one of them.
func TestNobodyIsOnProbationForTheClientsOwnNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSlowNet(3)
		v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100), func(c *Config) { c.Patience = time.Minute })
		defer closeTest(t, v)
		b := randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
		for range 2 * strikesMost {
			ids := []string{"s0", "s1", "s2"}
			for _, id := range ids {
				f.freeze(id)
			}
			done := make(chan error, 1)
			go func() {
				_, err := v.WriteAt(b, 0)
				done <- err
			}()
			time.Sleep(4 * time.Second)
			for _, id := range ids {
				f.thaw(id)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if rep := v.Report(); len(rep.Probation) != 0 {
			t.Errorf("on probation: %v", rep.Probation)
		}
	})
}

// What a probe sends harms nothing.
func TestProbeHarmsNothing(t *testing.T) {
	for _, kind := range []raid.LayoutKind{raid.LayoutLog, raid.LayoutLinear} {
		t.Run(kind.String(), func(t *testing.T) {
			c := newMemCluster(t, 1)
			v := c.open(c.layout(kind, raid.Geometry{K: 1}, 64, 1, 128))
			defer closeTest(t, v)
			want := randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
			if _, err := v.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			for _, p := range v.allPeers() {
				if err := p.probe(t.Context(), p.conn()); err != nil {
					t.Error(err)
				}
				if p.conn().Err() != nil {
					t.Error("the session is over")
				}
			}
			compareAll(t, v, want)
		})
	}
}
