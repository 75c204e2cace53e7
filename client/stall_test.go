package client

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// Addresses that refuse connections for a while are not memory that is gone: reads
// wait, as they do for servers that are silent.
func TestRefusedIsNotGone(t *testing.T) {
	for _, kind := range []raid.LayoutKind{raid.LayoutLog, raid.LayoutLinear} {
		t.Run(kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeNet(1)
				v := openTest(t, f, f.layout(kind, raid.Geometry{K: 1}, 64, 1, 100), func(c *Config) { c.Patience = time.Minute })
				defer closeTest(t, v)
				want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
				if _, err := v.WriteAt(want, 0); err != nil {
					t.Fatal(err)
				}
				f.down("s0", true)
				done := make(chan error, 1)
				got := make([]byte, len(want))
				go func() {
					_, err := v.ReadAt(got, 0)
					done <- err
				}()
				time.Sleep(30 * time.Second)
				select {
				case err := <-done:
					t.Fatalf("it ended although the patience is a minute: %v", err)
				default:
				}
				f.down("s0", false)
				back := time.Now()
				if err := <-done; err != nil || !bytes.Equal(got, want) {
					t.Errorf("after the address accepts again: %v", err)
				}
				if took := time.Since(back); took > 2*redialRefused {
					t.Errorf("it took %v to notice", took)
				}
			})
		})
	}
}

// Requests without a chance end when the patience is over, counted from when they
// came: not from when the last server has been found silent, one after another.
func TestPatienceCountsFromTheRequest(t *testing.T) {
	for _, how := range []string{"silent", "refused"} {
		for _, kind := range []raid.LayoutKind{raid.LayoutLog, raid.LayoutLinear} {
			t.Run(how+"/"+kind.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFakeNet(6)
					g := raid.Geometry{K: 2, M: 1}
					if kind == raid.LayoutLinear {
						g = raid.Geometry{K: 1}
					}
					l := f.layout(kind, g, 192, 6, 100)
					const patience = 10 * time.Second
					v := openTest(t, f, l, func(c *Config) { c.Patience, c.DialTimeout = patience, 2*time.Second })
					want := randomBytes(rand.New(rand.NewPCG(1, 4)), 192*raid.PageSize)
					if _, err := v.WriteAt(want, 0); err != nil {
						t.Fatal(err)
					}
					for id := range f.servers {
						if how == "silent" {
							f.freeze(id)
						} else {
							f.down(id, true)
						}
					}
					ask := func(late time.Duration) func() {
						done := make(chan struct{})
						go func() {
							defer close(done)
							time.Sleep(late)
							start := time.Now()
							ends := make(chan struct{})
							go func() {
								defer close(ends)
								if _, err := v.WriteAt(want[:raid.PageSize], 0); !errors.Is(err, ErrNoSpace) {
									t.Errorf("a write after %v: %v", late, err)
								}
								took(t, "write", start, patience)
							}()
							// Of another page, which is not being written.
							if _, err := v.ReadAt(make([]byte, raid.PageSize), 100*raid.PageSize); !errors.Is(err, ErrLost) {
								t.Errorf("a read after %v: %v", late, err)
							}
							took(t, "read", start, patience)
							<-ends
						}()
						return func() { <-done }
					}
					// The second one comes when the first has waited for long: it has
					// its own patience.
					first, second := ask(0), ask(8*time.Second)
					first()
					second()
					for id := range f.servers {
						if how == "silent" {
							f.thaw(id)
						} else {
							f.down(id, false)
						}
					}
					time.Sleep(5 * time.Second)
					compareAll(t, v, want)
					closeTest(t, v)
				})
			})
		}
	}
}

func took(t *testing.T, what string, start time.Time, patience time.Duration) {
	// All servers have been tried long before the patience is over: no last attempt
	// is owed.
	if took := time.Since(start); took < patience || took > patience+500*time.Millisecond {
		t.Errorf("a %s ended after %v, the patience is %v", what, took, patience)
	}
}

// What has waited for longer than the patience gets an attempt in a session that
// was just made.
func TestOneAttemptInANewSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(1)
		v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 1}, 64, 1, 100),
			func(c *Config) { c.Patience, c.DialTimeout = 10*time.Second, 8*time.Second })
		defer closeTest(t, v)
		want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		f.freeze("s0")
		done := make(chan error, 2)
		go func() {
			_, err := v.ReadAt(make([]byte, raid.PageSize), 0)
			done <- err
		}()
		go func() {
			_, err := v.WriteAt(want[raid.PageSize:2*raid.PageSize], raid.PageSize)
			done <- err
		}()
		// They are parked after the hard deadline of 3 s; the first attempt to make a
		// session since then is under way from then to 11 s.
		time.Sleep(10*time.Second + 500*time.Millisecond)
		f.thaw("s0")
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("the server was back before the first attempt to reach it had failed: %v", err)
			}
		}
	})
}

// A page-in that waits for members goes on when its page is written elsewhere.
func TestStalledReadFindsThePageElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(6)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 2, 100)
		for c := range l.Groups[1].Members { // the second group is on other servers
			id := []string{"s3", "s4", "s5"}[c]
			l.Groups[1].Members[c].Server, l.Groups[1].Members[c].Addr = raid.ServerID(id), id
			l.Groups[1].Members[c].Incarnation = raid.Incarnation(f.servers[id].inc)
		}
		v := openTest(t, f, l, func(c *Config) { c.Patience = time.Hour })
		defer closeTest(t, v)
		want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		at := v.mu.log.Place(v.mu.log.Lookup(0).Slot).Group
		v.mu.Unlock()
		for _, m := range l.Groups[at].Members {
			f.down(string(m.Server), true)
		}
		got := make([]byte, raid.PageSize)
		done := make(chan error, 1)
		go func() {
			_, err := v.ReadAt(got, 0)
			done <- err
		}()
		waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.stalled != nil })
		start := time.Now()
		now := randomBytes(rand.New(rand.NewPCG(2, 4)), raid.PageSize)
		if _, err := v.WriteAt(now, 0); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || !bytes.Equal(got, now) {
			t.Errorf("%v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the page could be read %v before its read ended", took)
		}
	})
}
