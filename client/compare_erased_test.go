package client

import (
	"testing"

	"dmps/raid"
)

// A client that was replaced may have given up a row that this one took in, and erased it
// at a member that was away. What that slot says then must not be read once the member is
// back in the view: the comparison takes it back, but only for rows in use.
func TestComparedMemberSaysNothingAgainstRowsInUse(t *testing.T) {
	virtual(func(t *testing.T) {
		g := raid.Geometry{K: 1, M: 1}
		f := newFakeNet(g.Members())
		v := openTest(t, f, f.layout(raid.LayoutLog, g, 16, 1, 128))
		defer closeTest(t, v)
		b := make([]byte, raid.PageSize)
		stamp(b, 0, 1)
		if _, err := v.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		used := v.mu.log.Place(v.mu.log.Lookup(0).Slot).Index
		m := v.member(0, 1).ref
		v.mu.Unlock()
		unused := used + 1
		heads := make([]byte, 2*raid.HeaderSize)
		for k, i := range []raid.Index{used, unused} {
			raid.PutErased(heads[k*raid.HeaderSize:][:raid.HeaderSize], v.site(0, i), []raid.Seq{1 << 60, 5}[k])
		}
		_, old := v.compareRows(m, uint32(used), 2, heads, nil)
		h, err := raid.ParseHeader(heads[:raid.HeaderSize])
		if err != nil || h.Kind != raid.KindErased || h.Seq != 0 || len(old) != 1 || old[0] != used {
			t.Fatalf("slots %v are written, that of the row in use as %+v, %v", old, h, err)
		}
	})(t)
}
