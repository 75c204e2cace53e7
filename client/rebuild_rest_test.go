package client

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dmps/raid"
)

// TestRebuildRests: a member that is up, and misses rows that nobody who is up
// holds, is not gone through again and again: seen in a guest, the client kept a
// processor busy with it, before everybody else, until the kernel gave its
// device up.
func TestRebuildRests(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 256, 1, 512)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	if _, err := v.WriteAt(make([]byte, v.Size()), 0); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, raid.PageSize)
	for p := range 256 {
		stamp(b, p, 1)
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	holders := l.Groups[0].Members
	lost, left := string(holders[0].Server), string(holders[1].Server)
	var spare string
	for id := range f.servers {
		if id != lost && id != left {
			spare = id
		}
	}
	f.away(left, true)
	f.kill(lost)
	m.replace(f, lost, spare)
	passes := func() int64 { return v.Report().Counters["rebuild_passes"] }
	waitFor(t, func() bool { return passes() > 0 })
	before := passes()
	const looks = 4
	time.Sleep(looks * rebuildRest)
	if n := passes() - before; n > 2*looks {
		t.Errorf("%d passes within %v, though nothing can be rebuilt", n, looks*rebuildRest)
	}
	await(t, v, "saying that it cannot go on", func(r Report) bool {
		return r.Rebuild != nil && r.Rebuild.Blocked && r.Rebuild.RemainingSeconds == -1 && slices.Equal(r.Suspect, []raid.ServerID{raid.ServerID(left)})
	})
	f.away(left, false)
	await(t, v, "going on, or done", func(r Report) bool { return r.Rebuild == nil || !r.Rebuild.Blocked })
	waitHealed(t, v, m)
	if err := v.check(); err != nil {
		t.Fatal(err)
	}
}

// A member that misses only rows which hold nothing of its column is given nothing, and that
// it has everything is noticed all the same.
func TestNothingToFillIsNoticed(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100))
	defer closeTest(t, v)
	page := randomBytes(rand.New(rand.NewPCG(1, 1)), raid.PageSize)
	if _, err := v.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	noticed := func() bool {
		v.mu.Lock()
		v.mu.log.SetMissed(0, v.mu.log.Place(v.mu.log.Lookup(0).Slot).Index, 1)
		m := v.member(0, 1)
		j := &rebuildJob{grp: 0, col: 1, ref: m.ref, peer: m.peer, conn: v.sessionLocked(m)}
		v.mu.heal.saveNext = 1
		v.mu.Unlock()
		_, rows, _, _ := v.rebuildList(j, 4)
		v.mu.Lock()
		defer v.mu.Unlock()
		if len(rows) != 0 || v.missingLocked(m.ref) != 0 {
			t.Fatalf("%d rows are to be filled, %d are missed", len(rows), v.missingLocked(m.ref))
		}
		return v.mu.heal.saveNext == 0
	}
	for try := 0; !noticed(); try++ { // the cleaner may move the page before
		if try == 20 {
			t.Fatal("nobody notices that it has everything")
		}
	}
}

// A rebuild that goes on in several parts is one: what was filled counts until nothing
// is missing, what is moved meanwhile does not count, and progress goes back only by
// rows that are said to have come on top.
func TestRebuildProgress(t *testing.T) { virtual(testRebuildProgress)(t) }

func testRebuildProgress(t *testing.T) {
	n := newScrubRig(t, 7)
	l := n.layout(raid.Geometry{K: 2, M: 2}, 512, 1, 400) // s0 to s3
	m := newFakeMeta(l)
	v := n.open(l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	last := RebuildReport{RowsLeft: 1, RowsTotal: 1}
	looked := func(r Report) bool {
		b := r.Rebuild
		if b == nil {
			return false
		}
		if b.RowsLeft*last.RowsTotal > last.RowsLeft*b.RowsTotal && b.RowsAdded <= last.RowsAdded {
			t.Errorf("from %d of %d rows left to %d of %d, %d added", last.RowsLeft, last.RowsTotal, b.RowsLeft, b.RowsTotal, b.RowsAdded)
		}
		last = *b
		return true
	}
	n.hosts["s0"].Down(true)
	n.hosts["s1"].Down(true)
	v.SetRebuildRate(4 << 20) // some 0.5 s for each member
	m.replaceWith("s0", "s4", n.servers["s4"].Incarnation())
	await(t, v, "missing rows", looked)
	all := last.RowsTotal
	await(t, v, "the first to be filled", func(r Report) bool { return !looked(r) })
	if last.RowsAdded != 0 || last.RowsTotal != all {
		t.Errorf("%d of %d rows came on top of %d", last.RowsAdded, last.RowsTotal, all)
	}
	v.SetRebuildRate(0)
	m.mu.Lock()
	m.layout.Groups[0].Pending = []raid.Pending{{Col: 2, Member: raid.Member{
		Server: "s5", Addr: "s5", Incarnation: n.servers["s5"].Incarnation(), Chunk: 200, State: raid.MemberRebuilding,
	}}}
	m.layout.Version++
	m.mu.Unlock()
	await(t, v, "moving", func(Report) bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.layout.Groups[0].Pending) == 0 })
	v.SetRebuildRate(4 << 20)
	m.replaceWith("s1", "s6", n.servers["s6"].Incarnation())
	await(t, v, "missing more", looked)
	// A list of it may be filled by now.
	if b := last; b.RowsTotal <= all || b.RowsTotal > 2*all || b.RowsAdded != b.RowsTotal-all {
		t.Errorf("%d rows were filled; now %d of %d are left, %d came on top", all, b.RowsLeft, b.RowsTotal, b.RowsAdded)
	}
	await(t, v, "all to be filled", func(r Report) bool { return !looked(r) && r.State == StateHealthy })
}
