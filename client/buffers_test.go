package client

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dmps/raid"
)

// A page-in that waits for buffers while one of its sources leaves the layout
// looks for others.
func TestRescueThatWaitsLooksAtItsMembersAnew(t *testing.T) {
	f := newFakeNet(4)
	g := raid.Geometry{K: 2, M: 2}
	l := f.layout(raid.LayoutLog, g, 64, 1, 100)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Hour, Renew: time.Hour} })
	defer closeTest(t, v)
	want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	f.down("s0", true)
	waitFor(t, func() bool { return v.Report().State == StateDegraded })
	// Other degraded page-ins have all of the buffers.
	bufs, ok := v.scratch.tryGet(v.scratch.available(), nil)
	if !ok {
		t.Fatal("no buffers")
	}
	got := make([]byte, len(want))
	done := make(chan error, 1)
	go func() {
		_, err := v.ReadAt(got, 0)
		done <- err
	}()
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.rescues.head != nil })
	v.mu.Lock()
	source := v.mu.rescues.head.sources &^ 1 // not s0
	v.mu.Unlock()
	m.mu.Lock()
	m.layout.Version += 5
	for c := range g.Members() {
		if source&(1<<c) != 0 {
			m.layout.Groups[0].Members[c].State = raid.MemberLost
			break
		}
	}
	nl := m.layout
	nl.Groups = cloneGroups(m.layout.Groups)
	m.mu.Unlock()
	if err := v.applyLayout(&nl); err != nil {
		t.Fatal(err)
	}
	v.Free(bufs)
	v.Kick()
	if err := <-done; err != nil || !bytes.Equal(got, want) {
		t.Errorf("two members of four are away, two may be: %v", err)
	}
}

// However many page-ins have to be rebuilt, the old content of sub-page writes has
// buffers of its own.
func TestSubPageWritesHaveBuffersOfTheirOwn(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 200), patient)
	defer closeTest(t, v)
	want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	bufs, ok := v.scratch.tryGet(v.scratch.available(), nil)
	if !ok {
		t.Fatal("no buffers")
	}
	defer v.Free(bufs)
	var wg sync.WaitGroup
	for p := range 64 {
		want[p*raid.PageSize+100] ^= 1
		wg.Go(func() {
			if _, err := v.WriteAt(want[p*raid.PageSize+100:][:1], int64(p)*raid.PageSize+100); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	compareAll(t, v, want)
}

// However many page-ins have to be rebuilt, the cleaner gets buffers: else a full
// volume takes no more writes.
func TestCleanerHasBuffersOfItsOwn(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 256, 1, 200), patient)
	defer closeTest(t, v)
	r := rand.New(rand.NewPCG(1, 4))
	want := randomBytes(r, 256*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	bufs, ok := v.scratch.tryGet(v.scratch.available(), nil)
	if !ok {
		t.Fatal("no buffers")
	}
	defer v.Free(bufs)
	for range 2000 {
		p := r.IntN(256)
		b := randomBytes(r, raid.PageSize)
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatalf("while all buffers of page-ins are in use: %v", err)
		}
		copy(want[p*raid.PageSize:], b)
	}
	if v.Report().Counters["cleaned_pages"] == 0 {
		t.Error("nothing was cleaned, so the test shows nothing")
	}
	compareAll(t, v, want)
}

// Buffers that hedged page-ins are answered with are at the front end's mercy: some
// are always left.
func TestHedgesLeaveBuffersToRescues(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100))
	defer closeTest(t, v)
	bufs, ok := v.scratch.tryGet(v.scratch.size/2+1, nil)
	if !ok {
		t.Fatal("no buffers")
	}
	defer v.Free(bufs)
	a := v.lock()
	q := v.newRescueLocked()
	q.units[0], q.n, q.sources, q.hedge = v.newUnitLocked(), 1, 0b110, true
	q.units[0].refs = 2
	v.sendRescueLocked(q, a)
	started := q.left > 0
	v.unlock(a)
	if started {
		t.Error("a hedge takes buffers although less than half are left")
	}
}

// What a reader was answered with stays where it is when the volume is closed.
func TestHolesMayBeReadWhileTheVolumeIsClosed(t *testing.T) {
	f := newFakeNet(1)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 1}, 64, 1, 128))
	op := &Op{Kind: OpRead, Len: 64 * raid.PageSize}
	if err := v.do(op); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := bytes.Repeat([]byte{1}, 64*raid.PageSize)
	copyOut(got, op)
	if !bytes.Equal(got, make([]byte, len(got))) {
		t.Error("a hole does not read as zeros")
	}
}

// A chunk may turn out to be gone while the recovery waits for its headers.
func TestMemberLeavesWhileItsHeadersAreRead(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100), patient)
	defer closeTest(t, v)
	f.freeze("s0")
	f.freeze("s2")
	bufs := make([]byte, 3*128<<10)
	have := make([]bool, 3)
	done := make(chan struct{})
	go func() { v.readHeaders(0, 0, 32, bufs, have); close(done) }()
	for _, id := range []string{"s0", "s1", "s2"} {
		p := peerOf(v, raid.ServerID(id))
		waitFor(t, func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.mu.oldest != nil || id == "s1"
		})
	}
	f.cut("s2")
	v.mu.Lock()
	gone := v.member(0, 2).ref
	v.mu.Unlock()
	v.chunkGone(gone, errChunkGone)
	f.thaw("s0")
	<-done
	f.thaw("s2")
	if !have[0] || !have[1] || have[2] || !gone.unread.Load() {
		t.Errorf("read: %v", have)
	}
}

func peerOf(v *Volume, id raid.ServerID) *peer {
	for _, p := range v.allPeers() {
		if p.id == id {
			return p
		}
	}
	return nil
}
