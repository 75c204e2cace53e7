package client

import (
	"testing"

	"dmps/raid"
)

// A slot that does not hold what was written there is met once: then its row counts
// as missing at that member, until it is there again.
func TestCorruptSlotsAreMetOnce(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			const pages = 64
			f := newSlowNet(6)
			v := openTest(t, f, f.layout(raid.LayoutLog, g, pages, 1, 200))
			defer closeTest(t, v)
			version := make([]uint64, pages)
			b := make([]byte, raid.PageSize)
			for p := range version {
				version[p] = 1
				stamp(b, p, 1)
				if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
					t.Fatal(err)
				}
			}
			bad := int64(0)
			v.mu.Lock()
			for p := range raid.PageNo(pages) {
				if at := v.mu.log.Place(v.mu.log.Lookup(p).Slot); at.Col == 0 && bad < 5 {
					m := v.layout.Groups[0].Members[0]
					f.corrupt(string(m.Server), uint64(m.Chunk), int(at.Index), 100)
					bad++
				}
			}
			v.mu.Unlock()
			verifyVersions(t, v, version)
			waitFor(t, func() bool { return v.Report().State == StateHealthy })
			for range 2 {
				verifyVersions(t, v, version)
			}
			if n := v.Report().Counters["corrupt_pages"]; n != bad {
				t.Errorf("%d reads met the %d slots that were damaged", n, bad)
			}
		}))
	}
}
