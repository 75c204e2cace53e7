package transporttest

import (
	"slices"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// Sources that are sound and of the row, but together give another page than the
// table says, are not stored: one is given up, and another serves in its place.
func testRebuildContradiction(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 80)
	row := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 })
	c.forge(4, row, func(*raid.Header) {})
	for _, col := range []int{2, 5} { // of parity only what is lost with it is made anew
		without := uint32(1<<5 | 1<<0)
		if col == 2 {
			without = 1 << 5
		}
		if fails := c.rebuilt(c.spec(col, without)); len(fails) != 1 || fails[0].Reason != transport.RebuildChecksum {
			t.Errorf("column %d, no other: %v", col, fails)
		}
		c.replace(col)
		if fails := c.rebuilt(c.spec(col, 0)); fails != nil {
			t.Errorf("column %d: %v", col, fails)
		}
	}
}
