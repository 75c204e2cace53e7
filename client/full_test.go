package client

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// Every page of a volume is in use, and M members of every group are out, one
// of them for ever: random overwrites, trims and single-page fills go on without
// an error, for as long as it takes to write everything several times. So they
// do when the other one is back. What is stored never exceeds what was promised:
// (K+M)/K of the volume over its target fill.
func TestFullAndDegraded(t *testing.T) {
	const seed = 1
	const fill = 80 // what meta plans with, if not told otherwise
	for _, g := range []raid.Geometry{{K: 1, M: 2}, {K: 2, M: 1}, {K: 4, M: 2}, {K: 8, M: 2}} {
		t.Run(fmt.Sprintf("%v/seed=%d", g, seed), func(t *testing.T) {
			t.Parallel()
			f := newFakeNet(g.Members())
			const pages, groups = 3000, 2
			per := groups * g.K * fill
			rows := uint32((pages*100 + per - 1) / per)
			l := f.layout(raid.LayoutLog, g, pages, groups, rows)
			promised := pages * 100 / fill * g.Members() / g.K
			v := openTest(t, f, l, func(c *Config) { c.Patience = 30 * time.Second }) // the machine may be busy
			defer closeTest(t, v)
			r := rand.New(rand.NewPCG(seed, uint64(g.K)))
			want := randomBytes(r, pages*raid.PageSize)
			if _, err := v.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			f.kill("s0")
			if g.M > 1 {
				f.down("s1", true)
			}
			churn := func(ops int) {
				t.Helper()
				for n := range ops {
					p := r.IntN(pages)
					count := min(1+r.IntN(1<<r.IntN(6)), pages-p)
					part := want[p*raid.PageSize:][:count*raid.PageSize]
					var err error
					if n%50 == 0 { // few: nearly all pages stay stored
						clear(part)
						err = v.Trim(int64(p)*raid.PageSize, int64(len(part)))
					} else {
						copy(part, randomBytes(r, len(part)))
						_, err = v.WriteAt(part, int64(p)*raid.PageSize)
					}
					if err != nil {
						t.Fatalf("operation %d: %v\n%+v\n%+v", n, err, v.Report(), v.mu.log.Stats())
					}
					v.mu.Lock()
					st := v.mu.log.Stats()
					v.mu.Unlock()
					if stored := int(st.UsedRows) * g.Members(); stored > promised+groups*g.Members() {
						t.Fatalf("%d slots are stored, promised are %d: %+v", stored, promised, st)
					}
				}
			}
			churn(1500)
			f.down("s1", false)
			churn(700)
			got := make([]byte, len(want))
			if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("wrong content (%v)", err)
			}
			// A row of a mirror has one page: there is nothing to clean.
			if c := v.Report().Counters; c["cleaned_pages"] == 0 && g.K > 1 || c["erased_rows"] == 0 {
				t.Errorf("nothing was cleaned or erased: %v", c)
			}
			if err := v.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// down cuts a server off, or lets it be reached again, with all it holds.
func (f *fakeNet) down(id string, down bool) {
	f.mu.Lock()
	f.servers[id].dead = down
	f.mu.Unlock()
	f.cut(id)
}
