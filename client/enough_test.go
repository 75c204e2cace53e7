package client

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dmps/raid"
)

// A volume is not opened while so many members of a group are away that the others
// may not know what was answered; it is when enough are back.
func TestRecoveryNeedsEnough(t *testing.T) { virtual(testRecoveryNeedsEnough)(t) }

func testRecoveryNeedsEnough(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 2, M: 1}, {K: 4, M: 2}} {
		const pages = 64
		f := newSlowNet(g.Members())
		l := f.layout(raid.LayoutLog, g, pages, 1, 100)
		v := openTest(t, f, l)
		want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		closeTest(t, v)
		for c := range g.M + 1 {
			f.down(string(l.Groups[0].Members[c].Server), true)
		}
		l2 := *l
		l2.Epoch, l2.FirstEpoch = 2, false
		cfg := Config{Layout: &l2, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
		if v, err := Open(context.Background(), cfg); err == nil {
			t.Errorf("%v: opened without %d members", g, g.M+1)
			closeTest(t, v)
		}
		f.down(string(l.Groups[0].Members[0].Server), false)
		l3 := l2
		l3.Epoch = 3
		v = openTest(t, f, &l3)
		compareAll(t, v, want)
		closeTest(t, v)
	}
}

// A member that does not belong to the group any more, as the record says that it
// was given, is not believed when nobody else can be read.
func TestOutsiderAloneIsNotBelieved(t *testing.T) { virtual(testOutsiderAloneIsNotBelieved)(t) }

func testOutsiderAloneIsNotBelieved(t *testing.T) {
	const pages = 64
	f := newSlowNet(2)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, pages, 1, 200)
	v := openTest(t, f, l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	for c, m := range l.Groups[0].Members {
		ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
		for i := range raid.ViewRows {
			b := ch.hdrs[i*raid.HeaderSize:][:raid.HeaderSize]
			h, err := raid.ParseHeader(b)
			if err != nil {
				t.Fatal(c, err)
			}
			if h.Kind == raid.KindView {
				h.Members = 0b01
				h.Put(b, nil)
			}
		}
	}
	f.down("s0", true)
	l2 := *l
	l2.Epoch, l2.FirstEpoch = 2, false
	cfg := Config{Layout: &l2, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
	v, err := Open(context.Background(), cfg)
	if err == nil {
		closeTest(t, v)
		t.Fatal("opened with a member alone that does not belong to the group")
	}
	if !strings.Contains(err.Error(), "could be read") {
		t.Errorf("refused because %v", err)
	}
	f.down("s0", false)
	l3 := l2
	l3.Epoch = 3
	v = openTest(t, f, &l3)
	compareAll(t, v, want)
	closeTest(t, v)
}

// A member that is being rebuilt lacks rows that were answered, and does not say
// that they never were: with it alone beside others that are too few the volume is
// not opened.
func TestRebuildingMemberIsNoWitness(t *testing.T) { virtual(testRebuildingMemberIsNoWitness)(t) }

func testRebuildingMemberIsNoWitness(t *testing.T) {
	const pages = 64
	f := newSlowNet(4)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 1, 100)
	m := &l.Groups[0].Members[2]
	v := openTest(t, f, l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	// The one that takes the place has the record of the view, and no rows yet.
	old := f.servers["s2"].chunks[uint64(m.Chunk)]
	fresh := newFakeChunk(old.spec)
	copy(fresh.hdrs, old.hdrs[:raid.ViewRows*int(old.spec.HeaderBytes)])
	f.servers["s3"].chunks[100] = fresh
	*m = raid.Member{Server: "s3", Addr: "s3", Incarnation: raid.Incarnation(f.servers["s3"].inc), Chunk: 100, State: raid.MemberRebuilding}
	f.down("s1", true)
	l2 := *l
	l2.Epoch, l2.FirstEpoch = 2, false
	cfg := Config{Layout: &l2, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
	if v, err := Open(context.Background(), cfg); err == nil {
		closeTest(t, v)
		t.Fatal("opened")
	} else if !strings.Contains(err.Error(), "could be read") {
		t.Errorf("refused because %v", err)
	}
	f.down("s1", false)
	l3 := l2
	l3.Epoch = 3
	v = openTest(t, f, &l3)
	compareAll(t, v, want)
	waitFor(t, func() bool { return v.Report().DegradedRows == 0 })
	closeTest(t, v)
}
