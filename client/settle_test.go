package client

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// A client dies while all members but one have a batch. That one is away when
// the next client recovers, so the batch counts. It goes on, and what the batch
// replaced is overwritten. Then the member is back and the client is lost before
// it has looked at it: the next one sees that the member never had the batch.
// What was read must be there all the same.
func TestUnansweredRowsStayAsDecided(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}, {K: 2, M: 2}} {
		t.Run(g.String(), func(t *testing.T) {
			const pages, written = 64, 8
			f := newFakeNet(g.Members())
			l := f.layout(raid.LayoutLog, g, pages, 1, 200)
			r := rand.New(rand.NewPCG(1, 1))
			v := openTest(t, f, l, patient)
			want := randomBytes(r, pages*raid.PageSize)
			if _, err := v.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			away := string(l.Groups[0].Members[g.Members()-1].Server)
			f.freeze(away)
			copy(want, randomBytes(r, written*raid.PageSize))
			done := make(chan error, 1)
			go func() {
				_, err := v.WriteAt(want[:written*raid.PageSize], 0)
				done <- err
			}()
			waitFor(t, func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				for c, m := range l.Groups[0].Members[:g.Members()-1] {
					size := l.HeaderBytes(raid.Col(c))
					for row := pages/g.K + raid.ViewRows; row < (pages+written)/g.K+raid.ViewRows; row++ {
						h, err := raid.ParseHeader(f.servers[string(m.Server)].chunks[uint64(m.Chunk)].hdrs[row*size:][:size])
						if err != nil || !h.Holds() {
							return false
						}
					}
				}
				return true
			})
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			if err := v.Close(ctx); err == nil {
				t.Fatal("the write has ended")
			}
			if err := <-done; err == nil {
				t.Fatal("the write was answered")
			}
			f.down(away, true)
			f.thaw(away)

			l.Epoch, l.FirstEpoch = 2, false
			v = openTest(t, f, l)
			compareAll(t, v, want)
			for range 10 {
				copy(want[written*raid.PageSize:], randomBytes(r, (pages-written)*raid.PageSize))
				if _, err := v.WriteAt(want[written*raid.PageSize:], written*raid.PageSize); err != nil {
					t.Fatal(err)
				}
			}
			compareAll(t, v, want)
			closeTest(t, v)

			f.down(away, false)
			l.Epoch++
			v = openTest(t, f, l)
			compareAll(t, v, want)
			waitFor(t, func() bool { return v.Report().State == StateHealthy })
			compareAll(t, v, want)
			closeTest(t, v)
		})
	}
}

// A volume that was closed with everything answered has nothing to move when it is
// opened without a member, however much it holds: its last views say that all is
// settled.
func TestNothingToMoveAfterClose(t *testing.T) {
	g := raid.Geometry{K: 1, M: 1}
	f := newFakeNet(2)
	const pages = 8192
	l := f.layout(raid.LayoutLog, g, pages, 1, pages+pages/4)
	v := openTest(t, f, l)
	want := randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize)
	for p := 0; p < len(want); p += 1 << 20 {
		if _, err := v.WriteAt(want[p:p+1<<20], int64(p)); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
	f.down("s1", true)
	l.Epoch, l.FirstEpoch = 2, false
	v = openTest(t, f, l)
	if n := v.Report().Counters["cleaned_pages"]; n != 0 {
		t.Errorf("%d of %d pages were moved", n, pages)
	}
	compareAll(t, v, want)
	closeTest(t, v)
}

// A client dies with a batch at K members, which is too few to let it be, and a volume
// so full that nothing can be moved. The next one fills the rows where they lie.
func TestUnsureRowsAreFilledWhereNoneIsFree(t *testing.T) {
	for _, servers := range []string{"up", "back later"} {
		t.Run(servers, virtual(func(t *testing.T) {
			g := raid.Geometry{K: 2, M: 2}
			const pages, rows = 20, 2 + 16 // 10 rows are full, 2 are kept for moves
			r := newScrubRig(t, g.Members())
			l := r.layout(g, pages, 1, rows)
			withMeta := func(c *Config) {
				c.Meta, c.Lease, c.DialTimeout = &noter{fakeMeta: newFakeMeta(l)}, Lease{TTL: time.Minute, Renew: 20 * time.Millisecond}, time.Second
			}
			v := r.open(l, withMeta)
			rnd := rand.New(rand.NewPCG(1, 1))
			want := randomBytes(rnd, pages*raid.PageSize)
			if _, err := v.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			slow := l.Groups[0].Members[g.K:]
			for _, m := range slow {
				r.hosts[m.Addr].Stall(true)
			}
			const written = 8
			copy(want, randomBytes(rnd, written*raid.PageSize))
			done := make(chan error, 1)
			go func() {
				_, err := v.WriteAt(want[:written*raid.PageSize], 0)
				done <- err
			}()
			time.Sleep(50 * time.Millisecond) // it is at the others
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = v.Close(ctx)
			if err := <-done; err == nil {
				t.Fatal("the write was answered")
			}
			for _, m := range slow {
				r.hosts[m.Addr].Stall(false)
				r.hosts[m.Addr].Down(servers != "up")
			}
			time.AfterFunc(2*time.Second, func() {
				for _, m := range slow {
					r.hosts[m.Addr].Down(false)
				}
			})
			l.Epoch, l.FirstEpoch = 2, false
			v = r.open(l, withMeta)
			defer closeTest(t, v)
			compareAll(t, v, want)
			// Rarely rows of before are let go in time, and all is moved while the others are away.
			if st := v.Report().Counters; st["rebuilt_rows"] == 0 && st["cleaned_pages"] < written {
				t.Errorf("%d rows were filled, %d pages moved", st["rebuilt_rows"], st["cleaned_pages"])
			}
			if n := v.Report().Counters["cleaned_pages"]; servers == "up" && n != 0 {
				t.Errorf("%d pages were moved although all rows could be filled", n)
			}
		}))
	}
}
