package client

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// lapsed is a volume whose lease was over a while ago, and a page that lies on s0.
func lapsed(t *testing.T, patience time.Duration) (f *fakeNet, m *fakeMeta, v *Volume, want []byte, page int) {
	t.Helper()
	f = newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100)
	m = newFakeMeta(l)
	v = openTest(t, f, l, func(c *Config) {
		c.Meta, c.Lease, c.Patience = m, Lease{TTL: 10 * time.Second, Renew: 2 * time.Second}, patience
	})
	want = randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
	clear(want[:4*raid.PageSize]) // holes
	if _, err := v.WriteAt(want[4*raid.PageSize:], 4*raid.PageSize); err != nil {
		t.Fatal(err)
	}
	page = -1
	v.mu.Lock()
	for p := range raid.PageNo(64) {
		if e := v.mu.log.Lookup(p); e.Kind == raid.Stored && l.Groups[0].Members[v.mu.log.Place(e.Slot).Col].Server == "s0" {
			page = int(p)
		}
	}
	v.mu.Unlock()
	if page < 0 {
		t.Fatal("no page lies on s0")
	}
	m.silent(true)
	time.Sleep(15 * time.Second)
	return f, m, v, want, page
}

func (m *fakeMeta) silent(on bool) {
	m.mu.Lock()
	m.mute = on
	m.mu.Unlock()
}

// Without metadata paging goes on, past the end of the lease, for as long as K
// members of the group answer, and however long nobody asked them for anything.
func TestReadsGoOnWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, v, want, _ := lapsed(t, 10*time.Second)
		defer closeTest(t, v)
		f.freeze("s2")
		time.Sleep(10 * time.Minute)
		for range 10 {
			start := time.Now()
			compareAll(t, v, want)
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %v", took)
			}
			time.Sleep(time.Minute)
		}
		if n := v.Report().Counters["lease_expired_seconds"]; n < 60 {
			t.Errorf("the report says that the lease expired %d s ago", n)
		}
		f.thaw("s2")
	})
}

// A client that may have been replaced, since its lease is over and it reaches fewer
// than K members of a group, does not answer from one that it still reaches, nor
// from its map.
func TestNothingIsReadWithoutALeaseFromTooFew(t *testing.T) {
	for _, how := range []string{"silent", "refused"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, _, v, _, page := lapsed(t, 10*time.Second)
				defer closeTest(t, v)
				for _, id := range []string{"s1", "s2"} {
					if how == "silent" {
						f.freeze(id)
						defer f.thaw(id)
					} else {
						f.down(id, true)
					}
				}
				time.Sleep(lapseHeard + lapseProbe + 2*lapseTick) // they are idle: it shows by itself
				for _, p := range []int{page, 0} {
					start := time.Now()
					_, err := v.ReadAt(make([]byte, raid.PageSize), int64(p)*raid.PageSize)
					if err == nil || !strings.Contains(err.Error(), "the lease expired") || errors.Is(err, ErrLost) {
						t.Errorf("page %d: %v", p, err)
					}
					if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
						t.Errorf("page %d: after %v", p, took)
					}
				}
			})
		})
	}
}

// What waits for the lease, or for members, goes on when they are there.
func TestReadsWithoutALeaseGoOn(t *testing.T) {
	for _, how := range []string{"lease", "members"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, m, v, want, page := lapsed(t, time.Minute)
				defer closeTest(t, v)
				f.down("s1", true)
				f.down("s2", true)
				time.Sleep(time.Second)
				done := make(chan error, 2)
				got := make([]byte, 2*raid.PageSize)
				for i, p := range []int{page, 0} {
					go func() {
						b := got[i*raid.PageSize:][:raid.PageSize]
						b[0] = 77
						_, err := v.ReadAt(b, int64(p)*raid.PageSize)
						done <- err
					}()
				}
				time.Sleep(5 * time.Second)
				select {
				case err := <-done:
					t.Fatalf("a read was answered: %v", err)
				default:
				}
				start := time.Now()
				if how == "lease" {
					m.silent(false)
				} else {
					f.down("s1", false)
				}
				for range 2 {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if took := time.Since(start); took > 4*time.Second { // a renewal is tried each second, a header read for each second
					t.Errorf("after %v", took)
				}
				if !bytes.Equal(got[:raid.PageSize], want[page*raid.PageSize:][:raid.PageSize]) || !bytes.Equal(got[raid.PageSize:], want[:raid.PageSize]) {
					t.Error("wrong content")
				}
			})
		})
	}
}
