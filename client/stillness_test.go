package client

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// stopped is a network whose client is stopped while it connects: for the first
// stops attempts to reach each server its clock is at once past the time limit,
// and the attempt has failed of that.
type stopped struct {
	*fakeNet
	stops int
	err   error // of such an attempt

	clock atomic.Int64 // what the client did not run
	tries [4]atomic.Int32
}

func (s *stopped) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	if n := s.tries[addr[1]-'0'].Add(1); int(n) <= s.stops {
		until, _ := ctx.Deadline()
		time.Sleep(20 * time.Millisecond) // it ran that long
		s.clock.Add(int64(time.Until(until)))
		return nil, transport.Welcome{}, s.err
	}
	return s.fakeNet.Dial(ctx, addr, h, idle)
}

func (s *stopped) open(t *testing.T, change func(*raid.Layout)) (*Volume, error) {
	l := s.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	if change != nil {
		change(l)
	}
	return Open(t.Context(), Config{
		Layout: l, Dialer: s, ArenaBytes: 4 << 20, Logger: quiet(), DialTimeout: 2 * time.Second,
		nanotime: func() int64 { return nanotime() + s.clock.Load() },
	})
}

// A client that is stopped while it opens a volume, for as long as a server has
// to answer, holds that against no server, whatever became of the attempt. It
// goes on where it was, as often as that happens.
func TestStoppedWhileOpening(t *testing.T) {
	for name, err := range map[string]error{"timeout": context.DeadlineExceeded, "hung up": transport.ErrClosed} {
		for _, stops := range []int{1, 5} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &stopped{fakeNet: newFakeNet(3), stops: stops, err: err}
					v, err := s.open(t, nil)
					if err != nil {
						t.Fatal(err)
					}
					if r := v.Report(); r.State != StateHealthy || len(r.Suspect) != 0 {
						t.Errorf("%d stops are held against servers: %+v", stops, r)
					}
					closeTest(t, v)
				})
			})
		}
	}
}

// A server that does not answer is found missing in the usual time, and in as
// much time in which the client ran when it was stopped meanwhile.
func TestSilentWhileOpening(t *testing.T) {
	for _, stops := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			s := &stopped{fakeNet: newFakeNet(3), stops: stops, err: context.DeadlineExceeded}
			s.freeze("s0")
			s.freeze("s1")
			begin := time.Now()
			_, err := s.open(t, func(l *raid.Layout) { l.Epoch, l.FirstEpoch = 2, false })
			if err == nil || !strings.Contains(err.Error(), "1 of 3 members") {
				t.Fatalf("opened with one member of three: %v", err)
			}
			if took := time.Since(begin); took < 2*time.Second || took > 2*time.Second+100*time.Millisecond {
				t.Errorf("%d stops: found missing after %v of running, not 2s", stops, took)
			}
			if n := s.tries[0].Load(); int(n) < 1+stops {
				t.Errorf("%d stops: %d attempts", stops, n)
			}
		})
	}
}

// A server that hangs up is missing at once while the client runs.
func TestHungUpWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stopped{fakeNet: newFakeNet(3)}
		s.freeze("s1")
		begin := time.Now()
		go func() {
			time.Sleep(100 * time.Millisecond)
			s.kill("s1")
			s.thaw("s1")
		}()
		v, err := s.open(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 150*time.Millisecond {
			t.Errorf("waited %v for a server that refuses", took)
		}
		closeTest(t, v)
	})
}

// What counts is time at a stretch in which nothing ran, not that of a machine
// that is merely busy; and a gap counts although nobody has looked at it yet.
func TestStillness(t *testing.T) {
	now := int64(0)
	s := newStillness(func() int64 { return now })
	tr := newTrial(s, 2*time.Second)
	run := func(d time.Duration, every time.Duration) {
		for end := now + int64(d); now < end; s.look() {
			now += int64(every)
		}
	}
	tr.begin()
	run(time.Second, stillEvery+stalledSelf/2)
	if tr.again() {
		t.Error("a busy machine is an excuse")
	}
	tr = newTrial(s, 2*time.Second)
	tr.begin()
	run(time.Second, stillEvery)
	now += int64(time.Second)
	if !tr.again() || tr.left != time.Second {
		t.Errorf("one second of two was lost to a stop: %v left", tr.left)
	}
	tr.begin()
	run(900*time.Millisecond, stillEvery)
	now += int64(10 * time.Second)
	if tr.again() {
		t.Errorf("a server that had nearly all its time gets more: %v left", tr.left)
	}
}
