package client

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// moving is a volume of one group over s0 to s2, without meta: the test says what
// moves.
func moving(t *testing.T) (*fakeNet, *raid.Layout, *Volume) {
	t.Helper()
	f := newSlowNet(5)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 200)
	return f, l, openTest(t, f, l, patient)
}

// moveTo has column c of the group move to a server, or to none, and waits until
// that one is written to.
func moveTo(t *testing.T, f *fakeNet, l *raid.Layout, v *Volume, c raid.Col, id string, chunk raid.ChunkID) {
	t.Helper()
	next := *l
	next.Groups = cloneGroups(l.Groups)
	v.mu.Lock()
	next.Version = v.mu.version + 1
	v.mu.Unlock()
	next.Groups[0].Pending = []raid.Pending{{Col: c, Member: raid.Member{
		Server: raid.ServerID(id), Addr: id, Incarnation: raid.Incarnation(f.servers[id].inc), Chunk: chunk, State: raid.MemberRebuilding,
	}}}
	if err := v.applyLayout(&next); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		m := v.mover(0, c)
		return m.ref != nil && m.chunk == chunk && v.mu.log.UpPending(0)&(1<<c) != 0
	})
}

// holdsWhatItCounts compares what the pending member of column c counts as holding
// with what its server has.
func holdsWhatItCounts(f *fakeNet, v *Volume, c raid.Col) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	missed := map[raid.Index]bool{}
	rows, _ := v.mu.log.PendingRows(0, c, 0, make([]raid.MissingRow, 0, v.layout.ChunkSlots))
	for _, r := range rows {
		missed[r.Index] = true
	}
	m := v.mover(0, c)
	chunk := f.servers[string(m.peer.id)].chunks[uint64(m.chunk)]
	used, _ := v.mu.log.UsedRows(0, 0, make([]raid.UsedRow, 0, v.layout.ChunkSlots))
	for _, r := range used {
		if missed[r.Index] || int(c) < v.geo.K && r.Filled&(1<<c) == 0 {
			continue
		}
		size := int(chunk.spec.HeaderBytes)
		if h, err := raid.ParseHeader(chunk.hdrs[int(r.Index)*size:][:size]); err != nil || raid.TagOf(h.Seq) != r.Tag {
			return fmt.Errorf("row %d counts as held by %s, which has %+v, %v", r.Index, m.peer.id, h, err)
		}
	}
	return nil
}

// A batch is on its way when the move to one server is given up and another begins:
// what the first was sent the second does not have.
func TestBatchOfAnotherMove(t *testing.T) { virtual(testBatchOfAnotherMove)(t) }

func testBatchOfAnotherMove(t *testing.T) {
	f, l, v := moving(t)
	defer closeTest(t, v)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	moveTo(t, f, l, v, 1, "s3", 100)
	for id := range 3 {
		f.freeze(fmt.Sprint("s", id))
	}
	done := submitted(t, v, page(OpWrite, 0, 8))
	moveTo(t, f, l, v, 1, "s4", 101)
	for id := range 3 {
		f.thaw(fmt.Sprint("s", id))
	}
	ended(t, done, 1)
	if err := holdsWhatItCounts(f, v, 1); err != nil {
		t.Error(err)
	}
}

// Nobody is vouched for beside a batch that goes past it, or while it misses what
// was written while it was away, be that after it was vouched for.
func TestVouchedForHoldsAll(t *testing.T) { virtual(testVouchedForHoldsAll)(t) }

func testVouchedForHoldsAll(t *testing.T) {
	f, l, v := moving(t)
	defer closeTest(t, v)
	vouch := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.vouchLocked(v.mover(0, 1), true)
	}
	members := func(do func(string)) {
		for id := range 3 {
			do(fmt.Sprint("s", id))
		}
	}
	members(f.freeze)
	done := submitted(t, v, page(OpWrite, 0, 4)) // of an empty volume
	moveTo(t, f, l, v, 1, "s3", 100)
	for range 20 { // the view is written to it too
		if vouch() {
			t.Fatal("vouched for beside a batch that it is not sent")
		}
		time.Sleep(5 * time.Millisecond)
	}
	members(f.thaw)
	ended(t, done, 1)
	waitFor(t, vouch)

	f.down("s3", true)
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.log.InDoubt(0) != 0 })
	ended(t, submitted(t, v, page(OpWrite, 4, 4)), 1)
	members(f.freeze) // so that nothing is moved or filled
	f.down("s3", false)
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.log.UpPending(0)&2 != 0 })
	if vouch() {
		t.Error("said to have everything, and misses what was written while it was away")
	}
	members(f.thaw)
	waitFor(t, vouch)
	if err := holdsWhatItCounts(f, v, 1); err != nil {
		t.Error(err)
	}
}
