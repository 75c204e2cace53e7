package client

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dmps/raid"
)

// TestCleaner overwrites a volume that is 80 % full many times over, in small
// and in large pieces, with fills and trims between: without a cleaner there
// would be no rows left after the first 20 %.
func TestCleaner(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}, {K: 4, M: 2}} {
		t.Run(g.String(), func(t *testing.T) {
			const pages = 2048
			f := newFakeNet(g.Members())
			v := openTest(t, f, f.layout(raid.LayoutLog, g, pages, 8, uint32(pages*10/8/8/g.K)))
			defer closeTest(t, v)
			r := rand.New(rand.NewPCG(5, uint64(g.K)))
			want := make([]byte, v.Size())
			for n := 0; n < 5*pages; {
				p := r.IntN(pages)
				k := min(1+r.IntN(1<<r.IntN(7)), pages-p)
				b := randomBytes(r, k*raid.PageSize)
				switch r.IntN(20) {
				case 0:
					clear(b)
					if err := v.Trim(int64(p)*raid.PageSize, int64(len(b))); err != nil {
						t.Fatal(err)
					}
				case 1:
					clear(b)
					fallthrough
				default:
					if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
						t.Fatalf("after %d pages: %v\n%+v", n, err, v.Report())
					}
				}
				copy(want[p*raid.PageSize:], b)
				n += k
			}
			compareAll(t, v, want)
			if v.Report().Counters["cleaned_pages"] == 0 && g.K > 1 {
				t.Fatal("the cleaner never ran")
			}
			if err := v.check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestCleanerUnderLoad lets eight writers, the cleaner and broken connections
// meet.
func TestCleanerUnderLoad(t *testing.T) { virtual(testCleanerUnderLoad)(t) }

func testCleanerUnderLoad(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	const pages = 2048
	f := newSlowNet(6)
	v := openTest(t, f, f.layout(raid.LayoutLog, g, pages, 8, pages*10/8/8/4))
	defer closeTest(t, v)
	b := make([]byte, raid.PageSize)
	for p := range pages {
		stamp(b, p, 0xffffff)
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		clear(b)
	}
	if err := v.Zero(0, v.Size()); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	wait := load(t, v, 8, stop)
	for i := range 10 {
		time.Sleep(50 * time.Millisecond)
		f.cut(fmt.Sprint("s", i%6))
	}
	close(stop)
	verifyVersions(t, v, wait())
}

// TestOverlappingSubPageWrites has several writers in the same few pages, each
// with bytes of its own.
func TestOverlappingSubPageWrites(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 3, 64))
	defer closeTest(t, v)
	const workers = 8
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			mine := make([]byte, 8*raid.PageSize/workers) // byte i is at i*workers+w of the device
			for range 300 {
				i := r.IntN(len(mine))
				mine[i] = byte(r.Uint32())
				at := int64(i*workers + w)
				if _, err := v.WriteAt(mine[i:i+1], at); err != nil {
					t.Error(err)
					return
				}
				i = r.IntN(len(mine))
				got := []byte{0}
				if _, err := v.ReadAt(got, int64(i*workers+w)); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got, mine[i:i+1]) {
					t.Errorf("worker %d: byte %d is %d, want %d", w, i, got[0], mine[i])
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestCleanerKeepsARow has writers in so small a volume that moves have to take the last
// free row, again and again, while the pages of their victims are written anew. A move
// that took it and freed none would be the last one: every write would fail from then on.
func TestCleanerKeepsARow(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { virtual(func(t *testing.T) { testCleanerKeepsARow(t, seed) })(t) })
	}
}

func testCleanerKeepsARow(t *testing.T, seed uint64) {
	g := raid.Geometry{K: 4, M: 2}
	const pages, rows = 60, 21 // 76 slots that hold pages, in 19 rows
	f := newSlowNet(6)
	v := openTest(t, f, f.layout(raid.LayoutLog, g, pages, 1, rows))
	defer closeTest(t, v)
	var wg sync.WaitGroup
	for w := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, w))
		wg.Go(func() {
			for n := range 150 {
				p := r.IntN(pages)
				k := min(1+r.IntN(1<<r.IntN(5)), pages-p)
				var err error
				if off, size := int64(p)*raid.PageSize, k*raid.PageSize; r.IntN(6) == 0 {
					err = v.Trim(off, int64(size))
				} else {
					_, err = v.WriteAt(randomBytes(r, size), off)
				}
				if err != nil {
					t.Errorf("writer %d, operation %d: %v\n%+v", w, n, err, v.Report())
					return
				}
			}
		})
	}
	wg.Wait()
}

// No page is moved by two cleanings at once: of the two copies the one with the higher
// number would be dead, and the next client would take it for the page.
func TestCleaningsHaveVictimsOfTheirOwn(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, g, 64, 2, 50))
	defer closeTest(t, v)
	rest := func(until int64) {
		a := v.lock()
		v.mu.cleanAfter = until
		v.unlock(a)
	}
	rest(1 << 62)
	for p := range 80 {
		if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, uint64(p))), raid.PageSize), int64(p*7%64)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	a := v.lock()
	v.mu.cleanAfter = 0
	v.mu.cleaning = true
	moved := make(map[raid.Slot]bool)
	started := 0
	for started < cleanBatches && v.startCleanLocked(a) {
		started++
	}
	for _, c := range v.cleanings {
		if !c.on {
			continue
		}
		for _, s := range c.slots {
			if moved[s] {
				t.Errorf("slot %d is moved twice", s)
			}
			moved[s] = true
		}
	}
	v.unlock(a)
	if started == 0 {
		t.Error("nothing is cleaned")
	}
}
