package client

import (
	"testing"

	"dmps/raid"
)

// Pages that were gone before, and whose loss nobody has accepted, and pages that are gone
// since are not the same ones: what is told is at most so many, and never too few. And
// meta hears of the new ones, lest somebody accept the old ones and these with them.
func TestUnknownPagesOfTwoLossesAdd(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	v := &Volume{geo: g, layout: &raid.Layout{Geometry: g, Pages: 1000, Unknown: 10}}
	v.mu.unknown = v.layout.Unknown
	v.countUnknownLocked(raid.Incomplete{Unnamed: 5}, false)
	if v.mu.unknown < 15 {
		t.Errorf("10 and 5 pages are gone: it tells of %d", v.mu.unknown)
	}
	if !v.mu.untold {
		t.Error("meta is not told of 5 pages that are gone since")
	}
}
