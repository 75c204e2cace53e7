package client

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// membersHold compares what the members of the group count as holding with what
// their servers have.
func membersHold(f *fakeNet, v *Volume) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	used, _ := v.mu.log.UsedRows(0, 0, make([]raid.UsedRow, 0, v.layout.ChunkSlots))
	for _, r := range used {
		for c := range raid.Col(v.geo.Members()) {
			if r.Holders&(1<<c) == 0 || int(c) < v.geo.K && r.Filled&(1<<c) == 0 {
				continue
			}
			m := v.member(0, c)
			chunk := f.servers[string(m.peer.id)].chunks[uint64(m.chunk)]
			size := int(chunk.spec.HeaderBytes)
			if h, err := raid.ParseHeader(chunk.hdrs[int(r.Index)*size:][:size]); err != nil || raid.TagOf(h.Seq) != r.Tag {
				return fmt.Errorf("row %d counts as held by %s in column %d, which has %+v, %v", r.Index, m.peer.id, c, h, err)
			}
		}
	}
	return nil
}

// A member is replaced while a batch is on its way that it has taken: the one in its
// place does not have that.
func TestBatchOfAReplacedMember(t *testing.T) { virtual(testBatchOfAReplacedMember)(t) }

func testBatchOfAReplacedMember(t *testing.T) {
	f, l, v := moving(t)
	defer closeTest(t, v)
	f.freeze("s0")
	done := submitted(t, v, page(OpWrite, 0, 8))
	waitFor(t, func() bool {
		p := peerOf(v, "s1")
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.mu.oldest == nil // it has taken its part
	})
	if err := v.applyLayout(replaced(f, l, v, "s3", 100)); err != nil {
		t.Fatal(err)
	}
	f.thaw("s0")
	ended(t, done, 1)
	for range 20 {
		if err := membersHold(f, v); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// A chunk that has left is let go when nothing is aimed at it any more.
func TestReadsOfAChunkThatLeaves(t *testing.T) { virtual(testReadsOfAChunkThatLeaves)(t) }

func testReadsOfAChunkThatLeaves(t *testing.T) {
	f, l, v := moving(t)
	defer closeTest(t, v)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	moveTo(t, f, l, v, 1, "s3", 100)
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.vouchLocked(v.mover(0, 1), true) })
	at := int64(-1)
	v.mu.Lock()
	for p := range raid.PageNo(64) {
		if v.mu.log.Place(v.mu.log.Lookup(p).Slot).Col == 1 {
			at = int64(p)
		}
	}
	v.mu.Unlock()
	p := peerOf(v, "s1")
	conn := p.conn()
	f.freeze("s1")
	op := page(OpRead, at, 1)
	done := submitted(t, v, op)
	waitFor(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.mu.oldest != nil })
	next := replaced(f, l, v, "s3", 100)
	next.Groups[0].Members[1].State = raid.MemberInSync
	if err := v.applyLayout(next); err != nil {
		t.Fatal(err)
	}
	select {
	case <-conn.Done():
		t.Error("the session has ended with a read on its way")
	case <-time.After(time.Second):
	}
	f.thaw("s1")
	ended(t, done, 1)
	v.Free(op.Bufs)
	<-conn.Done() // there was nothing else that it was for
	if err := membersHold(f, v); err != nil {
		t.Error(err)
	}
}
