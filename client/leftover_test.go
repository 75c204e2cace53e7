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
	old := func() (n int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		c := f.servers["s2"].chunks[uint64(l.Groups[0].Members[2].Chunk)]
		size := int(c.spec.HeaderBytes)
		for i := raid.ViewRows; i < int(c.spec.Slots); i++ {
			h, err := raid.ParseHeader(c.hdrs[i*size:][:size])
			if err != nil || h.Holds() && h.Seq < raid.FirstSeq(2) {
				n++
			}
		}
		return n
	}
	if old() == 0 {
		t.Fatal("the member that is away holds nothing old: the test is too tame")
	}
	f.down("s2", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	if n := old(); n > 0 {
		t.Errorf("%d headers of dead rows are left", n)
	}
	compareAll(t, v, want)
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
