package client

import (
	"bytes"
	"testing"

	"dmps/raid"
)

// A write of a part of a page keeps the rest of the newest version that was accepted
// before it, be that on its way, waiting, or stored.
func TestPartsKeepTheRest(t *testing.T) {
	v, goOn := still(t)
	defer closeTest(t, v)
	goOn()
	fill := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	f := v.cfg.Dialer.(*fakeNet)
	for _, c := range []struct {
		page  int64
		whole []byte // versions that are accepted before the parts
	}{{0, nil}, {1, []byte{2}}, {2, []byte{2, 4}}, {3, []byte{2, 4, 6}}} {
		at := c.page * raid.PageSize
		if _, err := v.WriteAt(fill(9, raid.PageSize), at); err != nil {
			t.Fatal(err)
		}
		want := fill(9, raid.PageSize)
		for id := range f.servers {
			f.freeze(id)
		}
		var all []chan *Op
		send := func(from int64, b []byte) {
			copy(want[from:], b)
			op := &Op{Kind: OpWrite, Off: at + from, Len: int64(len(b))}
			done := make(chan *Op, 1)
			op.Done = func(op *Op) { done <- op }
			bufs, err := v.Alloc(t.Context(), 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := range bufs[0].Page { // what lies outside of the range is of no meaning
				bufs[0].Page[i] = 0xee
			}
			copy(bufs[0].Page[from:], b)
			op.Bufs = bufs
			v.Submit(op)
			v.Kick()
			all = append(all, done)
		}
		for _, b := range c.whole {
			send(0, fill(b, raid.PageSize))
		}
		send(1000, fill(1, 24))
		send(0, fill(3, 5))
		send(4000, fill(5, 96))
		goOn()
		for _, done := range all {
			if op := answer(t, done); op.Err != nil {
				t.Error(op.Err)
			}
		}
		got := make([]byte, raid.PageSize)
		if _, err := v.ReadAt(got, at); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("over %d whole versions: byte %d is %#x, not %#x", len(c.whole), i, got[i], want[i])
				break
			}
		}
	}
}
