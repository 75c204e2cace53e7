package client

import (
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// TestScrubClearsUnusedSlots damages headers of slots that are not in use. A scrub counts
// none of them, and has them erased: so a client opens the volume that does not reach M
// other members, from whom it could learn that nothing was there.
func TestScrubClearsUnusedSlots(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 1, M: 2}, {K: 2, M: 1}, {K: 2, M: 2}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			r := newScrubRig(t, g.Members())
			l := r.layout(g, 64, 1, 300)
			v := r.open(l)
			version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
			version = append([]uint64(nil), version...)
			m := l.Groups[0].Members
			last := raid.Col(g.Members() - 1)
			for _, i := range []raid.Index{299, 250, 180} {
				r.flip(m[last], i, raid.HeaderBytes(g, last), raid.PageSize+9)
			}
			if st := scrubNow(t, v, ScrubOptions{}); !st.Complete() || st.BadSlots != 0 {
				t.Errorf("%+v", st)
			}
			closeTest(t, v)
			for _, o := range m[:g.M] {
				r.hosts[o.Addr].Down(true)
			}
			l.Epoch, l.FirstEpoch = 2, false
			v = r.open(l, func(c *Config) { c.DialTimeout = time.Second })
			defer closeTest(t, v)
			verifyVersions(t, v, version)
		}))
	}
}
