package client

import (
	"fmt"
	"testing"
	"time"

	"dmps/raid"
)

// Whoever is slow, a read takes little longer than a hedge: another member serves,
// however many reads the slow one has not answered yet.
func TestHedgeIsWithSomebodyElse(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}, {K: 1, M: 2}} {
		for slow := range g.Members() {
			t.Run(fmt.Sprint(g, "/slow=", slow), virtual(func(t *testing.T) {
				const pages = 64
				f := newSlowNet(g.Members())
				v := openTest(t, f, f.layout(raid.LayoutLog, g, pages, 1, 200), patient)
				defer closeTest(t, v)
				version := make([]uint64, pages)
				all := make([]byte, pages*raid.PageSize)
				for p := range version {
					version[p] = 1
					stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
				}
				if _, err := v.WriteAt(all, 0); err != nil { // in all columns
					t.Fatal(err)
				}
				f.freeze(fmt.Sprint("s", slow))
				begun := time.Now()
				verifyVersions(t, v, version)
				if took := time.Since(begun); took > 30*time.Second {
					t.Errorf("%d pages took %v", pages, took)
				}
				f.thaw(fmt.Sprint("s", slow))
			}))
		}
	}
}
