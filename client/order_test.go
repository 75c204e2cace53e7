package client

import (
	"testing"

	"dmps/raid"
)

// still is a volume whose servers take requests and answer none until go on.
func still(t *testing.T) (v *Volume, goOn func()) {
	t.Helper()
	f := newFakeNet(3)
	v = openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 256, 1, 300), patient)
	for id := range f.servers {
		f.freeze(id)
	}
	return v, func() {
		for id := range f.servers {
			f.thaw(id)
		}
	}
}

func page(kind OpKind, first, n int64) *Op {
	return &Op{Kind: kind, Off: first * raid.PageSize, Len: n * raid.PageSize}
}

// ended takes the answers to n operations, which all are successes.
func ended(t *testing.T, done chan *Op, n int) {
	t.Helper()
	for range n {
		if op := answer(t, done); op.Err != nil {
			t.Errorf("operation %d at %d: %v", op.Kind, op.Off, op.Err)
		}
	}
}

// A trim waits for the page-outs of its pages that came before it, however often
// it is looked at.
func TestTrimWaitsForWrites(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	done := submitted(t, v, page(OpWrite, 20, 2), page(OpTrim, 10, 20))
	v.mu.Lock()
	v.unblockTrimsLocked()
	if v.mu.blocked.n != 1 || v.mu.trims.n != 0 {
		t.Errorf("%d trims wait for the write, %d may go", v.mu.blocked.n, v.mu.trims.n)
	}
	v.mu.Unlock()
	goOn()
	ended(t, done, 2)
	b := make([]byte, 2*raid.PageSize)
	if _, err := v.ReadAt(b, 20*raid.PageSize); err != nil {
		t.Fatal(err)
	}
	if !sameFilled(b[:raid.PageSize]) || b[0] != 0 {
		t.Error("the page was trimmed after it was written, and reads as it was written")
	}
}

// A trim of pages that read as zeros is not answered beside a write of them that
// is under way, nor is one before its record is stored.
func TestTrimIsNotAnsweredEarly(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	done := submitted(t, v, page(OpWrite, 5, 1), page(OpTrim, 5, 1))
	v.mu.Lock()
	v.unblockTrimsLocked()
	if len(done) != 0 || v.mu.blocked.n != 1 {
		t.Errorf("%d answers before anything was stored, %d trims wait", len(done), v.mu.blocked.n)
	}
	v.mu.Unlock()
	goOn()
	ended(t, done, 2)
}

// A write waits for the trims of its pages that came before it; so does the edge
// of a zeroed range. Each page of the trim counts, the last one too.
func TestWritesWaitForTrims(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	goOn()
	ended(t, submitted(t, v, page(OpWrite, 10, 20)), 1)
	for id := range v.cfg.Dialer.(*fakeNet).servers {
		v.cfg.Dialer.(*fakeNet).freeze(id)
	}
	trimmed := submitted(t, v, page(OpTrim, 10, 20))
	v.mu.Lock()
	for p := raid.PageNo(8); p < 32; p++ {
		if covers := v.trimCoversLocked(p, 1); covers != (p >= 10 && p < 30) {
			t.Errorf("page %d of a trim of [10, 30): %v", p, covers)
		}
	}
	v.mu.Unlock()
	done := submitted(t, v, page(OpWrite, 29, 1), &Op{Kind: OpZero, Off: 10*raid.PageSize + 100, Len: 200})
	v.mu.Lock()
	if v.mu.held.n != 1 || v.mu.heldEdges.n != 1 {
		t.Errorf("%d writes and %d edges wait for the trim", v.mu.held.n, v.mu.heldEdges.n)
	}
	v.mu.Unlock()
	if len(trimmed) != 0 {
		t.Error("a trim was answered before its record was stored")
	}
	goOn()
	ended(t, trimmed, 1)
	ended(t, done, 2)
	b := make([]byte, raid.PageSize)
	if _, err := v.ReadAt(b, 29*raid.PageSize); err != nil {
		t.Fatal(err)
	}
	if err := stamped(b, 0, 99); err != nil {
		t.Errorf("what was written after the trim: %v", err)
	}
}

// A filled page is left out only when it is filled with the same.
func TestFilledOtherwise(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 300))
	defer closeTest(t, v)
	b := make([]byte, raid.PageSize)
	for _, fill := range []byte{5, 6} {
		for i := range b {
			b[i] = fill
		}
		if _, err := v.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.ReadAt(b, 0); err != nil || b[0] != 6 {
		t.Errorf("reads as %d, %v", b[0], err)
	}
}

// The cleaner leaves pages alone of which something newer is under way.
func TestCleanerLeavesPagesUnderWay(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	goOn()
	ended(t, submitted(t, v, page(OpWrite, 0, 3)), 1)
	for id := range v.cfg.Dialer.(*fakeNet).servers {
		v.cfg.Dialer.(*fakeNet).freeze(id)
	}
	done := submitted(t, v, page(OpWrite, 0, 1), page(OpTrim, 1, 1))
	v.mu.Lock()
	c := v.newCleaning(nil)
	for p := range raid.PageNo(2) {
		c.slots = append(c.slots, v.mu.log.Lookup(p).Slot)
		c.op.Bufs = append(c.op.Bufs, &Buf{Page: make([]byte, raid.PageSize)})
	}
	if b := v.cleanBatchLocked(c); b != nil {
		t.Errorf("%d pages are moved of which newer versions are under way", len(b.bufs))
	}
	v.mu.Unlock()
	goOn()
	ended(t, done, 2)
}

// When rows are short a newer version may wait for the cleaner to move that very page:
// it does, unless that version is in a batch.
func TestCleanerMovesPagesWhoseNewerVersionWaitsForRows(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	fill := page(OpZero, 3, 1)
	done := submitted(t, v, page(OpWrite, 0, 1), page(OpTrim, 1, 1), fill)
	v.mu.Lock()
	for _, starved := range []int64{0, 1} {
		v.mu.starved = starved
		for _, c := range []struct {
			name string
			page raid.PageNo
		}{{"written", 0}, {"trimmed", 1}, {"zeroed", 3}} {
			if !v.supersededLocked(c.page) {
				t.Errorf("a page is moved that is being %s by a batch on its way", c.name)
			}
		}
		if v.supersededLocked(2) {
			t.Error("a page is not moved that nobody changes")
		}
	}
	waits := &Buf{page: 2, state: bufQueued}
	v.mu.pending.add(waits)
	trim := &Op{Kind: OpTrim, st: opState{page: 4, count: 1}}
	v.mu.active = append(v.mu.active, trim)
	for starved, want := range []bool{true, false} {
		v.mu.starved = int64(starved)
		if v.supersededLocked(2) != want || v.supersededLocked(4) != want {
			t.Errorf("starved %d: pages whose newer versions wait to be placed: %v", starved, !want)
		}
	}
	v.mu.starved = 0
	v.mu.pending.replace(waits, nil)
	v.mu.active = v.mu.active[:len(v.mu.active)-1]
	v.mu.Unlock()
	goOn()
	ended(t, done, 3)
}

// The next version of a page waits for the one before, and follows it.
func TestVersionsGoOneByOne(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	done := submitted(t, v, page(OpWrite, 0, 1))
	more := submitted(t, v, page(OpWrite, 0, 1))
	v.mu.Lock()
	if v.mu.queue.n != 0 {
		t.Errorf("%d pages are queued beside an older version on its way", v.mu.queue.n)
	}
	if b := v.mu.pending.oldest(0); b == nil || b.newer == nil || b.newer.state != bufWaiting {
		t.Error("the second version does not wait")
	}
	v.mu.Unlock()
	goOn()
	ended(t, done, 1)
	ended(t, more, 1)
}

// A write of a part of a page keeps the rest, of the newest version that was
// accepted.
func TestPartsGoOnTopOfTheNewest(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	done := submitted(t, v, page(OpWrite, 0, 1), page(OpWrite, 0, 1), &Op{Kind: OpWrite, Off: 1000, Len: 24})
	v.mu.Lock()
	first := v.mu.pending.oldest(0)
	second := first.newer
	third := second.newer
	for name, at := range map[string]int{"before": 999, "behind": 1024} {
		if third.Page[at] != second.Page[at] {
			t.Errorf("the byte %s the part is %#x, not %#x", name, third.Page[at], second.Page[at])
		}
	}
	v.mu.Unlock()
	goOn()
	ended(t, done, 3)
}
