package client

import (
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// Whoever looks at rows holds a read epoch, so that rows that die meanwhile are not
// written anew under it.
func TestReadsAndEpochs(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100), patient)
	defer closeTest(t, v)
	ended(t, submitted(t, v, page(OpWrite, 0, 20)), 1)
	ended(t, submitted(t, v, page(OpWrite, 40, 1)), 1) // has a row of its own
	waitFor(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.mu.reading == [2]int{} && v.mu.flying == 0
	})
	a := v.lock()
	defer v.unlock(a)
	held := func(what string, begin, end func()) {
		t.Helper()
		epoch := v.mu.epoch
		begin()
		if v.mu.reading[epoch] != 1 {
			t.Errorf("%s: %d hold the epoch", what, v.mu.reading[epoch])
		}
		end()
		if v.mu.reading != [2]int{} {
			t.Errorf("%s: %v hold the epochs when it is over", what, v.mu.reading)
		}
	}
	rows, _ := v.mu.log.UsedRows(0, 0, make([]raid.UsedRow, 0, 4))
	s := &scrub{v: v}
	var l *scrubList
	held("a scrub", func() { l = s.newListLocked(0, rows) }, func() { s.endListLocked(l) })

	m := v.member(0, 1)
	v.mu.log.SetMissed(0, rows[0].Index, 1)
	job := &rebuildJob{grp: 0, col: 1, ref: m.ref, peer: m.peer, conn: m.ref.conn}
	var missing []raid.MissingRow
	var epoch uint8
	v.mu.Unlock()
	_, missing, epoch, _ = v.rebuildList(job, 4)
	v.mu.Lock()
	if len(missing) == 0 {
		t.Fatal("nothing is missing")
	}
	if v.mu.reading[epoch] == 0 {
		t.Error("a rebuild holds no epoch")
	}
	v.mu.Unlock()
	v.rebuildDone(job, missing, epoch, transport.RebuildResult{}, nil)
	v.mu.Lock()

	// What died in the epoch before becomes free when its readers are gone, and no
	// sooner.
	var p raid.Placement
	if !v.mu.log.Reserve(1, false, &p) {
		t.Fatal("no rows")
	}
	c := v.mu.log.Lookup(40)
	v.mu.log.Commit(&p, []raid.Item{{Kind: raid.ItemPage, Page: 40}, {Kind: raid.ItemCopy}}[:p.N], 7)
	if c.Slot == v.mu.log.Lookup(40).Slot || !v.mu.log.Limbo() {
		t.Fatal("nothing died")
	}
	v.mu.reading[v.mu.epoch^1]++
	before := v.mu.epoch
	v.advanceLocked()
	if v.mu.epoch != before || !v.mu.log.Limbo() {
		t.Error("an epoch ended that is being read in")
	}
	v.mu.reading[v.mu.epoch^1]--
	v.advanceLocked()
	if v.mu.epoch == before && v.mu.log.Limbo() {
		t.Error("an epoch without readers does not end")
	}
}
