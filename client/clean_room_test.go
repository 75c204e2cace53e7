package client

import (
	"math/rand/v2"
	"slices"
	"testing"

	"dmps/raid"
)

// cramped is a volume with one free row, that is not cleaned. Pages 8 and 11 are
// alone in their rows, the others lie by twos.
func cramped(t *testing.T) *Volume {
	t.Helper()
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 12, 1, raid.ViewRows+8))
	a := v.lock()
	v.mu.cleanAfter = 1 << 62
	v.unlock(a)
	write := func(p, n int) {
		t.Helper()
		if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, uint64(p))), n*raid.PageSize), int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	for p := 0; p < 12; p += 2 {
		write(p, 2)
	}
	write(9, 2)
	v.mu.Lock()
	defer v.mu.Unlock()
	for p := range raid.PageNo(12) {
		if live := v.mu.log.LiveIn(v.mu.log.Lookup(p).Slot); (live == 1) != (p == 8 || p == 11) {
			t.Fatalf("%d slots are live in the row of page %d", live, p)
		}
	}
	if pages, last := v.mu.log.MoveRoom(3); pages != 2 || !last {
		t.Fatalf("there is room for %d pages, the last %v", pages, last)
	}
	return v
}

// cleaningOf is a cleaning that has read pages, but for those that have moved meanwhile.
func (v *Volume) cleaningOf(pages []raid.PageNo, moved ...raid.PageNo) *cleaning {
	c := v.newCleaning(nil)
	c.on = true
	for _, p := range pages {
		c.slots = append(c.slots, v.mu.log.Lookup(p).Slot)
		var b *Buf
		if !slices.Contains(moved, p) {
			b = &Buf{Page: make([]byte, raid.PageSize)}
		}
		c.op.Bufs = append(c.op.Bufs, b)
	}
	return c
}

// Moves that take the last row make at least one free.
func TestMovesGiveTheLastRowBack(t *testing.T) {
	v := cramped(t)
	defer closeTest(t, v)
	a := v.lock()
	defer v.unlock(a)
	if b := v.cleanBatchLocked(v.cleaningOf([]raid.PageNo{0, 2})); b != nil {
		t.Errorf("%d pages take the last row, and of all their rows something stays", len(b.items))
	}
}

// Nor do they take pages of rows of which others cannot be moved, in place of such that free
// a row.
func TestMovesOfTheLastRowEmptyRows(t *testing.T) {
	v := cramped(t)
	defer closeTest(t, v)
	a := v.lock()
	defer v.unlock(a)
	c := v.cleaningOf([]raid.PageNo{0, 1, 2, 3, 8, 11}, 0, 3)
	for _, last := range []bool{false, true} {
		b := v.mu.batches
		b.reset()
		b.clean = c
		emptied, ok := v.gatherLocked(b, c, 2, last)
		var pages []raid.PageNo
		for _, it := range b.items {
			pages = append(pages, it.Page)
		}
		want, rows := []raid.PageNo{1, 2}, 0
		if last {
			want, rows = []raid.PageNo{8, 11}, 2
		}
		if !ok || emptied != rows || !slices.Equal(pages, want) {
			t.Errorf("the last row %v: pages %d are moved, which empty %d rows", last, pages, emptied)
		}
		v.dropCleanLocked(b)
	}
}

// What another cleaning leaves to one is moved only where it still gains a row.
func TestWhatIsLeftOfACleaningGainsARow(t *testing.T) {
	v := cramped(t)
	defer closeTest(t, v)
	a := v.lock()
	defer v.unlock(a)
	other := v.cleaningOf([]raid.PageNo{0, 1})
	defer func() { other.on = false }()
	for _, k := range []struct {
		all  []raid.PageNo
		left int
	}{
		{[]raid.PageNo{0, 1, 8}, 0},
		{[]raid.PageNo{0, 1, 8, 11}, 2},
		{[]raid.PageNo{0, 1, 2, 3, 8, 11}, 4},
		{[]raid.PageNo{8}, 1}, // nothing is taken from it: whoever has chosen it knows why
	} {
		c := v.cleaningOf(k.all)
		v.othersLocked(c)
		c.on = false
		if len(c.slots) != k.left {
			t.Errorf("of pages %d %d are left, not %d", k.all, len(c.slots), k.left)
		}
	}
}
