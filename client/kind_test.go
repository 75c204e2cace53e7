package client

import (
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// A source that is of no kind that its column can hold is bad, whatever else fits:
// it is missed at that member, and not held against the others.
func TestSourcesAreOfTheirKind(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	f := newFakeNet(6)
	v := openTest(t, f, f.layout(raid.LayoutLog, g, 64, 1, 100))
	defer closeTest(t, v)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	const data = raid.Col(2)
	for _, kind := range []raid.HeaderKind{raid.KindView, raid.KindFill} {
		q := rescued(t, f, v)
		q.rewrite(t, g, data, func(h *raid.Header, _ []raid.RowEntry) { h.Kind = kind })
		v.rebuild(q, 0)
		if q.good != 0 || q.bad[0] != 1<<data || q.odd[0] != 0 {
			t.Errorf("kind %d among data: good %v bad %b odd %b", kind, q.good != 0, q.bad[0], q.odd[0])
		}
	}
}
