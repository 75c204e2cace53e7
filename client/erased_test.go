package client

import (
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// A member loses what it holds while it is away when a client takes over. When it is back
// no zeros are left there: the slots of free rows say up to where they are dead, which the
// next recovery believes.
func TestLostMemoryIsErased(t *testing.T) { virtual(testLostMemoryIsErased)(t) }

func testLostMemoryIsErased(t *testing.T) {
	const pages, c = 64, 2
	f := newSlowNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 1, 200)
	v := openTest(t, f, l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	f.down("s2", true)
	m := l.Groups[0].Members[c]
	f.mu.Lock()
	ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
	size := int(ch.spec.HeaderBytes)
	clear(ch.hdrs[raid.ViewRows*size:])
	f.mu.Unlock()
	l.Epoch, l.FirstEpoch = 2, false
	v = openTest(t, f, l)
	defer closeTest(t, v)
	f.down("s2", false)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	compareAll(t, v, want)
	v.mu.Lock()
	defer v.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	free := 0
	for i := raid.Index(raid.ViewRows); i < 200; i++ {
		h, err := raid.ParseHeader(ch.hdrs[int(i)*size:][:size])
		if err != nil || h.Kind == raid.KindEmpty {
			t.Errorf("slot %d holds %+v, %v", i, h, err)
		}
		if v.mu.log.Free(0, i) {
			free++
			if h.Kind == raid.KindErased && (h.Seq < raid.FirstSeq(2) || h.Site != v.site(0, i)) {
				t.Errorf("free slot %d: %+v", i, h)
			}
		}
	}
	if free == 0 {
		t.Error("no row is free: the test is too tame")
	}
}

// Servers are told which group a chunk is of: what is sent for another they do not store.
func TestChunksKnowTheirGroup(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 3, 50)
	v := openTest(t, f, l)
	defer closeTest(t, v)
	f.mu.Lock()
	defer f.mu.Unlock()
	for g := range l.Groups {
		for _, m := range l.Groups[g].Members {
			if got := f.servers[string(m.Server)].chunks[uint64(m.Chunk)].spec.Group; got != uint32(g) {
				t.Errorf("a chunk of group %d was opened as one of group %d", g, got)
			}
		}
	}
}
