package client

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
)

// noter is a metadata service that notes who is behind, when it answers.
type noter struct {
	*fakeMeta
	mute  atomic.Bool
	notes atomic.Int32
	until atomic.Uint64 // the version with which it announces the last thing before it is mute; 0: none
	asked atomic.Int32  // renewals, answered or not
}

func (m *noter) Renew(ctx context.Context, v raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	m.asked.Add(1)
	if m.mute.Load() {
		return 0, ErrNoQuorum
	}
	m.mu.Lock()
	for _, g := range m.layout.Groups {
		for c := range g.Members {
			if slices.Contains(r.Behind, g.Members[c].Chunk) {
				g.Members[c].State = raid.MemberRebuilding
				m.layout.Version++
				m.notes.Add(1)
			}
		}
	}
	m.mu.Unlock()
	version, err := m.fakeMeta.Renew(ctx, v, e, r)
	if u := m.until.Load(); u != 0 && version >= u {
		m.mute.Store(true)
	}
	return version, err
}

// away takes a server off the network with all it holds, or brings it back.
func (f *fakeNet) away(id string, away bool) {
	f.mu.Lock()
	f.servers[id].dead = away
	f.mu.Unlock()
	f.cut(id)
}

// mirror is a client of a mirrored group, beside a metadata service that notes who is
// behind, when it answers.
type mirror struct {
	*Volume
	t    *testing.T
	m    *noter
	opts func(*Config)
	page []byte // what was written last, of page 0
}

// openMirror opens a volume of 64 pages with so many copies.
func openMirror(t *testing.T, f *fakeNet, copies int, patience time.Duration) *mirror {
	t.Helper()
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: copies - 1}, 64, 1, 512)
	v := &mirror{t: t, m: &noter{fakeMeta: newFakeMeta(l)}, page: make([]byte, raid.PageSize)}
	v.opts = func(c *Config) {
		c.Meta, c.Lease, c.Patience = v.m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond}, patience
	}
	v.Volume = openTest(t, f, l, v.opts)
	return v
}

func (v *mirror) try(b byte) error {
	for i := range v.page {
		v.page[i] = b + byte(i%7)
	}
	_, err := v.WriteAt(v.page, 0)
	return err
}

func (v *mirror) write(b byte) {
	v.t.Helper()
	if err := v.try(b); err != nil {
		v.t.Fatal(err)
	}
}

// reads demands what was written last.
func (v *mirror) reads() {
	v.t.Helper()
	got := make([]byte, len(v.page))
	if _, err := v.ReadAt(got, 0); err != nil || !slices.Equal(got, v.page) {
		v.t.Fatalf("the last answered write is not there: %v", err)
	}
}

// vain waits until the metadata service was asked again, and has not answered.
func (v *mirror) vain() {
	v.t.Helper()
	asked := v.m.asked.Load()
	wait(v.t, "asking in vain", v.Volume, func() bool { return v.m.asked.Load() >= asked+2 })
}

// deafen lets no move end, or lets them.
func (m *noter) deafen(deaf bool) {
	m.mu.Lock()
	m.deaf = deaf
	m.mu.Unlock()
}

// In a mirror of three copies a single member that was away can serve old
// versions of everything. So no page is written to fewer than all members before
// meta has noted who misses it; a client that then finds only those does not open
// the volume; and what they miss is filled when they return, which ends it.
func TestWhoIsBehindIsNotedFirst(t *testing.T) { virtual(testWhoIsBehindIsNotedFirst)(t) }

func testWhoIsBehindIsNotedFirst(t *testing.T) {
	f := newFakeNet(3)
	v := openMirror(t, f, 3, 500*time.Millisecond)
	m := v.m
	v.write(1)
	// Meta does not answer: with two of three copies nobody is answered.
	m.mute.Store(true)
	f.away("s0", true)
	if err := v.try(2); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("written although nobody noted who misses it: %v", err)
	}
	m.mute.Store(false)
	f.away("s1", true)
	v.write(3)
	if n := m.notes.Load(); n != 2 {
		t.Errorf("%d members are noted, not two", n)
	}
	// From then on meta is not needed.
	m.mute.Store(true)
	v.write(4)
	m.mute.Store(false)

	// The only one that knows goes, those that do not come back.
	closeTest(t, v.Volume)
	f.away("s2", true)
	f.away("s0", false)
	f.away("s1", false)
	next, err := m.Layout(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	next.Epoch, next.FirstEpoch = 2, false
	cfg := Config{Layout: next, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), DialTimeout: 10 * time.Second}
	v.opts(&cfg)
	if v, err := Open(context.Background(), cfg); err == nil {
		closeTest(t, v)
		t.Fatal("opened with stale members alone")
	}
	f.away("s2", false)
	if v.Volume, err = Open(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v.Volume)
	wait(t, "members that were behind are in sync again", v.Volume, m.healed)
	f.away("s2", true)
	v.reads()
}

// The server that a member of a mirror moves off goes in the middle of that. What
// is written meanwhile needs meta's note that the member falls behind, and the
// layout that says so must be one that clients take, also when they begin.
func TestBehindWhileMoving(t *testing.T) { virtual(testBehindWhileMoving)(t) }

func testBehindWhileMoving(t *testing.T) {
	f := newFakeNet(3)
	v := openMirror(t, f, 2, 2*time.Second)
	m := v.m
	v.write(1)
	m.deafen(true) // the move does not end
	m.drain(f, "s0", "s2")
	wait(t, "hearing of the move", v.Volume, func() bool { return m.same(v.Volume) })
	f.away("s0", true)
	v.write(2)
	if n := m.notes.Load(); n != 1 {
		t.Errorf("%d members are noted, not one", n)
	}
	closeTest(t, v.Volume)
	next, err := m.Layout(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if g := next.Groups[0]; len(g.Pending) != 1 || g.Members[0].State != raid.MemberRebuilding {
		t.Fatalf("not in the middle of the move: %+v", g)
	}
	next.Epoch, next.FirstEpoch = 2, false
	m.deafen(false)
	m.mu.Lock()
	m.layout.Epoch, m.layout.FirstEpoch = 2, false
	m.mu.Unlock()
	v.Volume = openTest(t, f, next, v.opts)
	defer closeTest(t, v.Volume)
	wait(t, "moving", v.Volume, func() bool { return !m.drain(f, "s0", "s2") })
	f.away("s1", true)
	v.reads()
}

// The pending member of a mirror that was vouched for is away, so that nobody
// knows who is the member. Rows that leave the column out are written when that
// is noted, once, and not for each of them anew.
func TestInDoubtIsNotedOnce(t *testing.T) { virtual(testInDoubtIsNotedOnce)(t) }

func testInDoubtIsNotedOnce(t *testing.T) {
	f := newFakeNet(3)
	v := openMirror(t, f, 2, 2*time.Second)
	m := v.m
	defer closeTest(t, v.Volume)
	m.deafen(true) // the move does not end
	m.drain(f, "s0", "s2")
	wait(t, "vouching", v.Volume, func() bool { return len(v.Report().Rebuilt) == 1 })
	f.away("s2", true)
	for i := range 30 {
		v.write(byte(i))
		time.Sleep(5 * time.Millisecond)
	}
	if n := m.notes.Load(); n != 1 {
		t.Errorf("noted %d times", n)
	}
}

// Meta is gone when the move of a mirror's member is complete. Nobody is vouched
// for then, so that when the target goes as well writes go on with both copies
// that are there; and not by who looks at the state. When both are back the move
// ends.
func TestNobodyIsVouchedForWithoutMeta(t *testing.T) { virtual(testNobodyIsVouchedForWithoutMeta)(t) }

func testNobodyIsVouchedForWithoutMeta(t *testing.T) {
	f := newFakeNet(3)
	v := openMirror(t, f, 2, time.Second)
	m := v.m
	defer closeTest(t, v.Volume)
	v.write(1)
	f.freeze("s2") // meta is gone before the move can be complete
	m.until.Store(v.Layout().Version + 1)
	m.drain(f, "s0", "s2")
	wait(t, "hearing of the move", v.Volume, func() bool { return m.mute.Load() && m.same(v.Volume) })
	v.vain()
	f.thaw("s2")
	wait(t, "completing the move", v.Volume, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.mover(0, 0).peer != nil && v.mu.log.MayVouch(0, 0)
	})
	v.vain()
	if r := v.Report(); len(r.Rebuilt) != 0 {
		t.Errorf("reports %v", r.Rebuilt)
	}
	f.away("s2", true)
	v.write(2)
	m.until.Store(0)
	m.mute.Store(false)
	f.away("s2", false)
	wait(t, "moving", v.Volume, func() bool { return !m.drain(f, "s0", "s2") })
	f.away("s1", true)
	v.reads()
}

// A member of a mirror that is filled again is not claimed to be complete while
// meta is gone: its absence stays noted, and writes go on when it goes again.
func TestNobodyIsClaimedWithoutMeta(t *testing.T) { virtual(testNobodyIsClaimedWithoutMeta)(t) }

func testNobodyIsClaimedWithoutMeta(t *testing.T) {
	f := newFakeNet(2)
	v := openMirror(t, f, 2, time.Second)
	m := v.m
	defer closeTest(t, v.Volume)
	f.away("s0", true)
	v.write(1)
	m.mute.Store(true)
	v.vain()
	f.away("s0", false)
	wait(t, "filling", v.Volume, func() bool {
		r := v.Report()
		return len(r.Suspect) == 0 && r.RebuildRows == 0 && len(r.Rebuilt) == 0 // nobody claims it
	})
	v.vain()
	f.away("s0", true)
	v.write(2)
	m.mute.Store(false)
	f.away("s0", false)
	wait(t, "counting again", v.Volume, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.layout.Groups[0].Members[0].State == raid.MemberInSync
	})
}

// heedless is a metadata service that notes nobody, since it knows of members that are
// lost; and says that something is new.
type heedless struct {
	*fakeMeta
	asked atomic.Bool
}

func (m *heedless) Renew(ctx context.Context, v raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	if len(r.Behind) > 0 && !m.asked.Swap(true) {
		m.mu.Lock()
		m.layout.Version++
		m.mu.Unlock()
	}
	return m.fakeMeta.Renew(ctx, v, e, r)
}

// Nobody counts as noted because that was asked for, and an answer came.
func TestTheLayoutSaysWhoIsNoted(t *testing.T) { virtual(testTheLayoutSaysWhoIsNoted)(t) }

func testTheLayoutSaysWhoIsNoted(t *testing.T) {
	f := newFakeNet(2)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 64, 1, 512)
	m := &heedless{fakeMeta: newFakeMeta(l)}
	m.deaf = true
	v := openTest(t, f, l, func(c *Config) {
		c.Meta, c.Lease, c.Patience = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond}, time.Second
	})
	defer closeTest(t, v)
	f.away("s0", true)
	if _, err := v.WriteAt(make([]byte, raid.PageSize), 0); !errors.Is(err, ErrNoSpace) || !m.asked.Load() {
		t.Errorf("a write that one of two has, and of which the other is not noted: %v", err)
	}
}
