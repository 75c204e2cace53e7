package client

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// writtenMirror writes a mirror on the two servers of f and closes it. It gives the layout for
// the next client, and what was written.
func writtenMirror(t *testing.T, f *fakeNet) (*raid.Layout, []byte) {
	t.Helper()
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 64, 2, 100)
	v := openTest(t, f, l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	l.Epoch, l.FirstEpoch = 2, false
	return l, want
}

// A session is made while the recovery ends: a chunk that was opened before is not
// compared with the map. Nothing is placed there in that session, since the next one
// erases what the map does not know.
func TestMemberIsNotUpBeforeItWasCompared(t *testing.T) {
	f := newFakeNet(2)
	l, want := writtenMirror(t, f)
	f.down("s1", true)
	v := openTest(t, f, l)
	defer closeTest(t, v)
	p := peerOf(v, "s1")
	p.stop() // its sessions are made by hand
	f.down("s1", false)
	v.recovered.Store(false)
	conn, err := p.connect(context.Background(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	v.recovered.Store(true)
	v.peerUp(p, conn)
	v.mu.Lock()
	for _, m := range p.members {
		if up := v.mu.log.UpMembers(m.group); !m.compared && up&(1<<m.col) != 0 {
			t.Errorf("group %d is written to column %d, which was not compared", m.group, m.col)
		}
	}
	v.mu.Unlock()
	p.drop(conn, errNotCompared)
	v.peerDown(p, conn, errNotCompared)
	v.startPeer(p, nil)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	compareAll(t, v, want)
}

// Of a member that has left while it is compared nothing is noted: its place is another's, or
// nobody's.
func TestComparedAfterItLeft(t *testing.T) {
	f := newFakeNet(2)
	l, want := writtenMirror(t, f)
	v := openTest(t, f, l)
	defer closeTest(t, v)
	for _, pending := range []bool{false, true} {
		left := &memberRef{chunk: 9, group: 0, col: 1, pending: pending}
		b := make([]byte, v.layout.HeaderBytes(1))
		h := raid.Header{Kind: raid.KindPage, Filled: 1, Members: 3, Seq: raid.FirstSeq(2) - 1, Site: v.site(0, raid.ViewRows)}
		h.Put(b, nil)
		if missed, old := v.compareRows(left, raid.ViewRows, 1, b, nil); missed != 0 || len(old) != 0 {
			t.Errorf("pending %v: %d rows are missed, and %d erased", pending, missed, len(old))
		}
	}
	compareAll(t, v, want)
}
