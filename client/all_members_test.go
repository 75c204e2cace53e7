package client

import (
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// newestView is the highest number of a view record that member c of the group holds.
func newestView(f *fakeNet, l *raid.Layout, c raid.Col) (newest raid.Seq) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := l.Groups[0].Members[c]
	ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
	size := int(ch.spec.HeaderBytes)
	for i := range raid.ViewRows {
		if h, err := raid.ParseHeader(ch.hdrs[i*size:][:size]); err == nil && h.Kind == raid.KindView {
			newest = max(newest, h.Seq)
		}
	}
	return newest
}

// A member that could not be reached when the record of the view was written is given
// it later: in the end all hold the newest.
func TestAllAreGivenTheView(t *testing.T) { virtual(testAllAreGivenTheView)(t) }

func testAllAreGivenTheView(t *testing.T) {
	f := newSlowNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 200)
	v := openTest(t, f, l, patient)
	defer closeTest(t, v)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), 8*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	before := newestView(f, l, 0)
	f.freeze("s1")
	v.mu.Lock()
	v.mu.log.RenewViews()
	v.eraseSoonLocked()
	v.mu.Unlock()
	waitFor(t, func() bool { return newestView(f, l, 0) > before && newestView(f, l, 2) > before })
	if n := newestView(f, l, 1); n != before {
		t.Fatalf("the member that is away has record %d", n)
	}
	f.cut("s1")
	f.thaw("s1")
	waitFor(t, func() bool {
		n := newestView(f, l, 0)
		return v.Report().State == StateHealthy && newestView(f, l, 1) == n && newestView(f, l, 2) == n
	})
}

// Rows that were given up are erased also at a member that could not be reached when
// the others were, as soon as it is back.
func TestAllAreErased(t *testing.T) { virtual(testAllAreErased)(t) }

func testAllAreErased(t *testing.T) {
	f := newSlowNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 200)
	v := openTest(t, f, l, patient)
	defer closeTest(t, v)
	var p raid.Placement
	erased := func(c raid.Col) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		m := l.Groups[0].Members[c]
		ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
		size := int(ch.spec.HeaderBytes)
		for _, i := range p.Index[:p.Rows] {
			if h, err := raid.ParseHeader(ch.hdrs[int(i)*size:][:size]); err != nil || h.Kind != raid.KindErased || h.Seq < p.Seq || h.Site != v.site(0, i) {
				return false
			}
		}
		return true
	}
	f.freeze("s1")
	v.mu.Lock()
	if !v.mu.log.Reserve(8, false, &p) {
		t.Fatal("no rows")
	}
	v.mu.log.Abandon(&p) // nothing of it was sent
	v.eraseSoonLocked()
	v.mu.Unlock()
	waitFor(t, func() bool { return erased(0) && erased(2) })
	if erased(1) {
		t.Fatal("erased at the member that is away")
	}
	f.cut("s1")
	f.thaw("s1")
	waitFor(t, func() bool { return erased(1) })
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.log.Doomed() == 0 && v.mu.log.Sure() })
}
