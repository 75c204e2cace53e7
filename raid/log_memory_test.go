package raid

import (
	"runtime"
	"testing"
)

// TestMapMemory holds the bar: at most 18 bytes of client memory for each page
// of the volume, spare rows included.
func TestMapMemory(t *testing.T) {
	const pages = 1 << 20
	for _, g := range []Geometry{{1, 0}, {1, 1}, {1, 3}, {2, 1}, {4, 2}, {16, 4}} {
		const groups = 16
		rows := uint32(pages*100/80/groups/g.K + 64)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		l, err := NewLog(LogConfig{Geometry: g, Pages: pages, Groups: groups, Rows: rows})
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		per := float64(after.HeapAlloc-before.HeapAlloc) / pages
		t.Logf("%v: %.2f bytes a page", g, per)
		if per > 18 {
			t.Errorf("%v: the map takes %.2f bytes a page, at most 18", g, per)
		}
		runtime.KeepAlive(l)
	}
}
