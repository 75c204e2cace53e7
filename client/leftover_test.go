package client

import (
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// A member was away when a client took over, and all its rows died meanwhile. When
// it is back nothing is left there of rows that the map does not know: the next
// recovery might take it for something.
func TestNothingIsLeftOfWhatDied(t *testing.T) { virtual(testNothingIsLeftOfWhatDied)(t) }

func testNothingIsLeftOfWhatDied(t *testing.T) {
	const pages = 64
	f := newSlowNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 1, 200)
	v := openTest(t, f, l)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	f.down("s2", true)
	l2 := *l
	l2.Epoch, l2.FirstEpoch = 2, false
	v = openTest(t, f, &l2)
	defer closeTest(t, v)
	want := randomBytes(rand.New(rand.NewPCG(2, 2)), pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if oldAt(f, l, 2) == 0 {
		t.Fatal("the member that is away holds nothing old: the test is too tame")
	}
	f.down("s2", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	if n := oldAt(f, l, 2); n > 0 {
		t.Errorf("%d headers of dead rows are left", n)
	}
	compareAll(t, v, want)
}

// oldAt counts headers of the first lease at member c, but for those that the members in
// same have too.
func oldAt(f *fakeNet, l *raid.Layout, c raid.Col, same ...raid.Col) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	header := func(c raid.Col, i int) (raid.Header, error) {
		m := l.Groups[0].Members[c]
		ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
		size := int(ch.spec.HeaderBytes)
		return raid.ParseHeader(ch.hdrs[i*size:][:size])
	}
	for i := raid.ViewRows; i < int(l.ChunkSlots); i++ {
		h, err := header(c, i)
		old := err != nil || h.Holds() && h.Seq < raid.FirstSeq(2)
		shared := len(same) > 0
		for _, o := range same {
			other, err := header(o, i)
			shared = shared && err == nil && other.SameRow(&h)
		}
		if old && !shared {
			n++
		}
	}
	return n
}

// A member that does not belong to the group, and is there when the next client
// begins, is compared before it is used like one that was away.
func TestNothingIsLeftOfAnOutsider(t *testing.T) { virtual(testNothingIsLeftOfAnOutsider)(t) }

func testNothingIsLeftOfAnOutsider(t *testing.T) {
	const pages = 64
	f := newSlowNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 1, 200)
	v := openTest(t, f, l)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	l2 := *l
	l2.Epoch, l2.FirstEpoch = 2, false
	v = openTest(t, f, &l2)
	done := make(chan error, 1)
	f.freeze("s2")
	go func() { done <- v.Trim(0, pages*raid.PageSize) }()
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.flying > 0 })
	f.down("s2", true) // what was on its way is given up: the others let it go
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return !v.mu.log.InView(0, 2) })
	closeTest(t, v)
	if oldAt(f, l, 2) == 0 {
		t.Fatal("the outsider holds nothing old: the test is too tame")
	}
	f.thaw("s2")
	f.down("s2", false)
	l3 := l2
	l3.Epoch = 3
	v = openTest(t, f, &l3)
	defer closeTest(t, v)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	if n := oldAt(f, l, 2, 0, 1); n > 0 { // what all have died before anybody looked at it
		t.Errorf("%d headers of dead rows are left", n)
	}
	compareAll(t, v, make([]byte, pages*raid.PageSize))
}

// All that is current in a note goes with it when it is moved, not only its first
// record: else its row stays in use, and its page for ever without the member that
// it misses.
func TestNoteOfManyRecordsIsMoved(t *testing.T) { virtual(testNoteOfManyRecordsIsMoved)(t) }

func testNoteOfManyRecordsIsMoved(t *testing.T) {
	const pages = 512
	f := newSlowNet(2)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, pages, 1, 2*pages)
	v := openTest(t, f, l)
	defer closeTest(t, v)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	f.down("s1", true)
	waitFor(t, func() bool { return len(v.Report().Suspect) == 1 })
	var trims []*Op
	for p := int64(0); p < pages; p += 16 {
		trims = append(trims, page(OpTrim, p, 8))
		clear(want[p*raid.PageSize:][:8*raid.PageSize])
	}
	ended(t, submitted(t, v, trims...), len(trims))
	v.mu.Lock()
	missing := v.mu.log.Missing(0, 1)
	v.mu.Unlock()
	if missing == 0 || missing > len(trims)/2 {
		t.Fatalf("the trims are recorded in %d notes: the test is too tame", missing)
	}
	f.down("s1", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	compareAll(t, v, want)
}
