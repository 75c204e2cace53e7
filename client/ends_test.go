package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
)

// submitted gives ops to v and returns where their answers arrive. Twice
// answered is caught.
func submitted(t *testing.T, v *Volume, ops ...*Op) chan *Op {
	t.Helper()
	done := make(chan *Op, 2*len(ops))
	for _, op := range ops {
		var times atomic.Int32
		op.Done = func(op *Op) {
			if times.Add(1) > 1 {
				t.Error("an operation was answered twice")
			}
			done <- op
		}
		if op.Kind == OpWrite {
			_, n := span(op)
			bufs, err := v.Alloc(context.Background(), n, nil)
			if err != nil {
				t.Fatal(err)
			}
			op.Bufs = bufs
			for i, b := range bufs {
				stamp(b.Page, i, 99)
			}
		}
		v.Submit(op)
	}
	v.Kick()
	return done
}

func answer(t *testing.T, done chan *Op) *Op {
	t.Helper()
	select {
	case op := <-done:
		return op
	case <-time.After(time.Minute):
		t.Fatal("an operation is not answered")
		return nil
	}
}

// TestInPlacePatience: writes to a server that does not come back end, also
// while the other servers are busy; those to the others go on.
func TestInPlacePatience(t *testing.T) {
	f := newFakeNet(2)
	v := openTest(t, f, f.layout(raid.LayoutLinear, raid.Geometry{K: 1}, 200, 2, 100), func(c *Config) { c.Patience, c.DialTimeout = 100*time.Millisecond, time.Second })
	defer closeTest(t, v)
	f.freeze("s1")
	f.cut("s1")
	stop := make(chan struct{})
	busy := make(chan error, 1)
	go func() {
		b := bytes.Repeat([]byte{1, 2}, raid.PageSize/2)
		for {
			select {
			case <-stop:
				busy <- nil
				return
			default:
			}
			if _, err := v.WriteAt(b, 0); err != nil {
				busy <- err
				return
			}
		}
	}()
	op := answer(t, submitted(t, v, &Op{Kind: OpWrite, Off: 150 * raid.PageSize, Len: raid.PageSize}))
	if op.Err == nil {
		t.Error("a write to a server that is away was answered with success")
	}
	close(stop)
	if err := <-busy; err != nil {
		t.Errorf("the other server: %v", err)
	}
	f.thaw("s1")
}

// TestInPlaceZeroOfGoneServer: the edges of a zeroed range fail at once.
func TestInPlaceZeroOfGoneServer(t *testing.T) {
	f := newFakeNet(1)
	v := openTest(t, f, f.layout(raid.LayoutLinear, raid.Geometry{K: 1}, 100, 1, 100))
	defer closeTest(t, v)
	f.kill("s0")
	f.restart("s0")
	waitFor(t, func() bool { return v.Report().State == StateFailed })
	done := submitted(t, v, &Op{Kind: OpZero, Off: 100, Len: 200})
	if op := answer(t, done); !errors.Is(op.Err, ErrLost) {
		t.Errorf("got %v, want ErrLost", op.Err)
	}
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// TestCloseAnswersEverything closes, or fences, a volume without a server that
// answers, with every kind of operation waiting for another one: a write that
// needs the old content, versions of its page behind it, a trim of them, a
// write that the trim holds.
func TestCloseAnswersEverything(t *testing.T) {
	for _, kind := range []raid.LayoutKind{raid.LayoutLog, raid.LayoutLinear} {
		for _, how := range []string{"close", "fence", "fence then close"} {
			t.Run(kind.String()+"/"+how, func(t *testing.T) {
				t.Parallel()
				f := newFakeNet(3)
				g := raid.Geometry{K: 1, M: 2}
				if kind != raid.LayoutLog {
					g.M = 0
				}
				v := openTest(t, f, f.layout(kind, g, 256, 3, 256), func(c *Config) { c.Patience = time.Minute })
				if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize), 0); err != nil {
					t.Fatal(err)
				}
				for i := range 3 {
					f.freeze(fmt.Sprint("s", i))
					f.cut(fmt.Sprint("s", i))
				}
				waitFor(t, func() bool { return len(v.Report().Suspect) == 3 })
				page := func(p, from, n int64) *Op {
					return &Op{Kind: OpWrite, Off: p*raid.PageSize + from, Len: n}
				}
				ops := []*Op{
					page(1, 100, 50), page(1, 0, raid.PageSize), page(1, 7, 5), page(2, 100, 50), page(2, 300, 50),
					page(3, 0, 8*raid.PageSize),
					{Kind: OpTrim, Off: 0, Len: 6 * raid.PageSize},
					page(4, 0, raid.PageSize), page(5, 10, 10),
					{Kind: OpZero, Off: raid.PageSize + 5, Len: 6 * raid.PageSize},
					{Kind: OpTrim, Off: 20 * raid.PageSize, Len: raid.PageSize}, page(20, 0, raid.PageSize), page(20, 9, 9),
					{Kind: OpRead, Off: 0, Len: 64 * raid.PageSize}, {Kind: OpRead, Off: 40 * raid.PageSize, Len: raid.PageSize},
				}
				done := submitted(t, v, ops...)
				if err := v.Err(); err != nil {
					t.Errorf("an open volume has ended: %v", err)
				}
				want := ErrClosed
				if how != "close" {
					v.fence(errors.New("test"))
					want = ErrFenced
				}
				if how != "fence" {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
					defer cancel()
					err := v.Close(ctx)
					if how == "close" && err == nil {
						t.Error("Close with requests open says nothing")
					}
					if how != "close" && err != nil {
						t.Error(err)
					}
				}
				for range ops {
					if op := answer(t, done); !errors.Is(op.Err, want) {
						t.Errorf("kind %d at %d: got %v, want %v", op.Kind, op.Off, op.Err, want)
					}
				}
				select {
				case <-v.Done():
				default:
					t.Error("it has not ended")
				}
				if err := v.Err(); !errors.Is(err, want) {
					t.Errorf("it ended by %v, want %v", err, want)
				}
				if how == "fence" {
					closeTest(t, v)
				}
				if n := v.buffersHeld(); n != 0 {
					t.Errorf("%d buffers are lost", n)
				}
			})
		}
	}
}

// TestReplyIsLost: a member answers everything but one transfer.
func TestReplyIsLost(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1}, {K: 1, M: 1}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			c := newMemCluster(t, g.Members())
			v := c.open(c.layout(raid.LayoutLog, g, 64, 1, 200))
			b := randomBytes(rand.New(rand.NewPCG(1, 1)), raid.PageSize)
			if _, err := v.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
			for _, ms := range c.servers {
				ms.host.DropReplies(1)
			}
			done := submitted(t, v, &Op{Kind: OpWrite, Off: 0, Len: raid.PageSize})
			got := make([]byte, raid.PageSize)
			for end := time.Now().Add(10 * time.Second); ; {
				if _, err := v.ReadAt(got, 8*raid.PageSize); err != nil {
					t.Fatal(err)
				}
				if _, err := v.WriteAt(b, 8*raid.PageSize); err != nil {
					t.Fatal(err)
				}
				select {
				case op := <-done:
					if op.Err != nil {
						t.Error(op.Err)
					}
				default:
					if time.Now().Before(end) {
						continue
					}
					t.Error("the write hangs while others pass it")
				}
				break
			}
			closeTest(t, v)
		}))
	}
}

// TestMirrorHedge: when the member that is asked is slow, any other copy
// serves, the first one too.
func TestMirrorHedge(t *testing.T) {
	for slow := range 2 {
		t.Run(fmt.Sprint("slow=", slow), func(t *testing.T) {
			f := newFakeNet(2)
			v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 256, 1, 400), func(c *Config) { c.SuspectAfter = time.Minute; c.HardDeadline = time.Minute })
			want := randomBytes(rand.New(rand.NewPCG(1, 1)), 256*raid.PageSize)
			if _, err := v.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			id := fmt.Sprint("s", slow)
			f.freeze(id)
			got := make([]byte, raid.PageSize)
			for p := 0; p < 256; p += 16 {
				if _, err := v.ReadAt(got, int64(p)*raid.PageSize); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want[p*raid.PageSize:][:raid.PageSize]) {
					t.Fatalf("page %d differs", p)
				}
			}
			f.thaw(id)
			closeTest(t, v)
		})
	}
}

// TestFragmentedNoteIsMoved: a trim of many pages of which every other one was
// written since is one record, and one note can be moved.
func TestFragmentedNoteIsMoved(t *testing.T) {
	const pages = 1024
	f := newFakeNet(2)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, pages, 2, 2*pages)
	v := openTest(t, f, l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	f.freeze("s1") // the note misses a member
	f.cut("s1")
	waitFor(t, func() bool { return len(v.Report().Suspect) == 1 })
	if err := v.Trim(0, v.size); err != nil {
		t.Fatal(err)
	}
	clear(want)
	for p := 0; p < pages; p += 2 {
		b := randomBytes(rand.New(rand.NewPCG(2, uint64(p))), raid.PageSize)
		copy(want[p*raid.PageSize:], b)
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	f.thaw("s1")
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	compareAll(t, v, want)
	closeTest(t, v)
	l.Epoch, l.FirstEpoch = 2, false
	v = openTest(t, f, l)
	compareAll(t, v, want)
	closeTest(t, v)
}

// TestRecoveryWithSilentMember: a member falls silent in the middle of a
// recovery, or of the comparison when it returns; neither may hang.
func TestRecoveryWithSilentMember(t *testing.T) { virtual(testRecoveryWithSilentMember)(t) }

func testRecoveryWithSilentMember(t *testing.T) {
	c := newMemCluster(t, 3)
	l := c.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 2048, 1, 4000) // more than one read of headers gives
	v := c.open(l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), int(v.size))
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	l.FirstEpoch = false
	for i, ms := range c.servers {
		l.Epoch++
		ms.mute.Store(true) // in the recovery
		v := c.open(l)
		compareAll(t, v, want)
		ms.mute.Store(true) // in the comparison
		ms.host.Stall(false)
		waitFor(t, func() bool { return !ms.mute.Load() })
		if i == len(c.servers)-1 {
			closeTest(t, v) // must not wait for it
			ms.host.Stall(false)
			continue
		}
		ms.host.Stall(false)
		waitFor(t, func() bool { return v.Report().State == StateHealthy })
		compareAll(t, v, want)
		closeTest(t, v)
	}
}

// A session has ended and nobody has come to say so yet: what is sent there fails
// at once, and must not be sent there again and again until its tries are used up.
func TestReadBeforeTheEndIsNoted(t *testing.T) {
	f := newFakeNet(3)
	g := raid.Geometry{K: 2, M: 1}
	v := openTest(t, f, f.layout(raid.LayoutLog, g, 64, 1, 100))
	want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	f.down("s0", true) // reads of its pages are made from the others
	wait(t, "to see that a server is away", v, func() bool { return v.Report().State == StateDegraded })
	p := v.member(0, 1).peer
	// As in peerDown, before it has the lock.
	p.drop(p.conn(), ErrClosed)
	v.mu.Lock()
	state := p.state
	v.mu.Unlock()
	got := make([]byte, len(want))
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("(server was %v) %v", state, err)
	}
	closeTest(t, v)
}
