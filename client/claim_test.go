package client

import (
	"errors"
	"slices"
	"testing"
	"time"

	"dmps/raid"
)

// replaced is a layout in which column 1 of the group is another, empty chunk on a
// server.
func replaced(f *fakeNet, l *raid.Layout, v *Volume, id string, chunk raid.ChunkID) *raid.Layout {
	next := *l
	next.Groups = cloneGroups(l.Groups)
	v.mu.Lock()
	next.Version = v.mu.version + 1
	v.mu.Unlock()
	next.Groups[0].Members[1] = raid.Member{
		Server: raid.ServerID(id), Addr: id, Incarnation: raid.Incarnation(f.servers[id].inc), Chunk: chunk, State: raid.MemberRebuilding,
	}
	return &next
}

// openPair opens a mirror of two copies, on the first of so many servers.
func openPair(t *testing.T, servers int, change ...func(*Config)) (*fakeNet, *raid.Layout, *Volume) {
	t.Helper()
	f := newSlowNet(servers)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 64, 1, 200)
	return f, l, openTest(t, f, l, change...)
}

// lose has a server forget a chunk.
func (f *fakeNet) lose(m raid.Member) {
	f.mu.Lock()
	delete(f.servers[string(m.Server)].chunks, uint64(m.Chunk))
	f.mu.Unlock()
	f.cut(string(m.Server))
}

// Meta is told that a member holds everything when it belongs to the group again,
// not before; and from then on its absence is to be noted anew.
func TestClaimedBelongsToTheGroup(t *testing.T) { virtual(testClaimedBelongsToTheGroup)(t) }

func testClaimedBelongsToTheGroup(t *testing.T) {
	f, l, v := openPair(t, 3, patient)
	defer closeTest(t, v)
	v.mu.Lock()
	v.mu.log.GuardThin()
	v.mu.Unlock()
	up := func(c raid.Col) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.mu.log.UpMembers(0)&(1<<c) != 0
	}
	unnoted := func() uint32 {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.mu.log.Unnoted(0)
	}
	f.freeze("s0") // no view can be written
	if err := v.applyLayout(replaced(f, l, v, "s2", 100)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return up(1) })
	for range 10 {
		if r := v.leaseReport(true); len(r.Rebuilt) != 0 {
			t.Fatalf("chunks %d are claimed to hold everything, and the view does not name them", r.Rebuilt)
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.thaw("s0")
	waitFor(t, func() bool { return slices.Equal(v.leaseReport(true).Rebuilt, []raid.ChunkID{100}) })
	f.down("s2", true)
	waitFor(t, func() bool { return !up(1) })
	if out := unnoted(); out != 2 {
		t.Errorf("the absence of %b is to be noted, not of the member that was claimed to hold everything", out)
	}
}

// A layout that is not newer changes nothing.
func TestOlderLayoutIsOfNoConcern(t *testing.T) { virtual(testOlderLayout)(t) }

func testOlderLayout(t *testing.T) {
	f, l, v := openPair(t, 4)
	defer closeTest(t, v)
	chunk := func() raid.ChunkID {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.member(0, 1).chunk
	}
	first := replaced(f, l, v, "s2", 100)
	if err := v.applyLayout(first); err != nil {
		t.Fatal(err)
	}
	second := replaced(f, l, v, "s3", 101)
	if err := v.applyLayout(second); err != nil {
		t.Fatal(err)
	}
	for _, old := range []*raid.Layout{l, first, second} {
		if err := v.applyLayout(old); err != nil {
			t.Fatal(err)
		}
		if c := chunk(); c != 101 {
			t.Errorf("version %d put chunk %d in place of that of version %d", old.Version, c, second.Version)
		}
	}
}

// A chunk that its server does not have any more stays out, whatever the layout says
// of it, until the layout names another.
func TestGoneChunkStaysOut(t *testing.T) { virtual(testGoneChunkStaysOut)(t) }

func testGoneChunkStaysOut(t *testing.T) {
	f, l, v := openPair(t, 3)
	defer closeTest(t, v)
	seated := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.member(0, 1).ref != nil
	}
	gone := l.Groups[0].Members[1]
	f.lose(gone)
	waitFor(t, func() bool { return !seated() })
	for range 3 {
		next := replaced(f, l, v, "s1", gone.Chunk)
		next.Groups[0].Members[1].State = raid.MemberInSync
		if err := v.applyLayout(next); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if seated() {
			t.Fatal("the chunk is a member again")
		}
	}
	if err := v.applyLayout(replaced(f, l, v, "s2", 100)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
}

// That a server does not have a chunk any more is the client's own finding: of two
// copies the other one is not written alone before meta has noted that.
func TestGoneChunkIsNotedFirst(t *testing.T) { virtual(testGoneChunkIsNotedFirst)(t) }

func testGoneChunkIsNotedFirst(t *testing.T) {
	f := newSlowNet(2)
	v := openMirror(t, f, 2, 500*time.Millisecond)
	defer closeTest(t, v.Volume)
	m := v.m
	v.write(1)
	m.mute.Store(true)
	f.lose(v.layout.Groups[0].Members[1])
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.member(0, 1).gone != 0 })
	if err := v.try(2); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("written although nobody noted who misses it: %v", err)
	}
	m.mute.Store(false)
	if err := v.try(3); err != nil || m.notes.Load() != 1 {
		t.Fatalf("meta answers, and noted %d members: %v", m.notes.Load(), err)
	}
	m.mute.Store(true) // it is not needed any more
	v.write(4)
	m.mute.Store(false)
}

// A report that is made for whoever asks claims of nobody that it holds everything:
// what meta hears binds what is written, so that is leaseReport's to decide.
func TestReportClaimsNothing(t *testing.T) { virtual(testReportClaimsNothing)(t) }

func testReportClaimsNothing(t *testing.T) {
	f, l, v := openPair(t, 3, patient)
	defer closeTest(t, v)
	if err := v.applyLayout(replaced(f, l, v, "s2", 100)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.mu.log.UpMembers(0) == 3 && v.mu.log.InView(0, 1) && v.mu.log.Missing(0, 1) == 0
	})
	r := v.Report()
	if len(r.Rebuilt) != 0 || r.Known != 1 {
		t.Errorf("chunks %v are claimed by who knows version %d", r.Rebuilt, r.Known)
	}
	if told := v.leaseReport(true).Rebuilt; !slices.Equal(told, []raid.ChunkID{100}) || !slices.Equal(v.Report().Rebuilt, told) {
		t.Errorf("told: %v, and from then on %v", told, v.Report().Rebuilt)
	}
}
