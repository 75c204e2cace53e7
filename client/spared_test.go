package client

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// A client gives a batch up and dies when it is erased at one member. That is away when the
// next client takes the batch in, which goes on for lack of room without moving it. When the
// member is back, what it says of the batch is not so any more: it must not be believed.
func TestErasedButTakenIn(t *testing.T) { virtual(testErasedButTakenIn)(t) }

func testErasedButTakenIn(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	const pages, rows, written = 20, 2 + 16, 8 // 10 rows are full, 4 are written, 2 are left to moves
	r := newScrubRig(t, g.Members())
	l := r.layout(g, pages, 1, rows)
	soon := func(c *Config) { c.DialTimeout = time.Second }
	v := r.open(l, soon)
	rnd := rand.New(rand.NewPCG(1, 1))
	want := randomBytes(rnd, pages*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	away, other := l.Groups[0].Members[0], l.Groups[0].Members[1]
	r.hosts[away.Addr].Stall(true)
	copy(want, randomBytes(rnd, written*raid.PageSize))
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteAt(want[:written*raid.PageSize], 0)
		done <- err
	}()
	time.Sleep(50 * time.Millisecond) // it is at the others
	die := func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = v.Close(ctx)
	}
	die()
	if err := <-done; err == nil {
		t.Fatal("the write was answered")
	}
	r.hosts[away.Addr].Stall(false)
	given := 0
	for i := raid.Index(raid.ViewRows + pages/2); i < rows; i++ {
		if h, err := raid.ParseHeader(r.header(other, i)); err == nil && h.Holds() {
			raid.PutErased(r.header(away, i), h.Site, h.Seq)
			given++
		}
	}
	if given != written/g.K {
		t.Fatalf("%d rows were written", given)
	}
	r.hosts[away.Addr].Down(true)

	l.Epoch, l.FirstEpoch = 2, false
	v = r.open(l, soon)
	compareAll(t, v, want)
	for range 4 { // over what the batch has replaced
		copy(want[written*raid.PageSize:], randomBytes(rnd, (pages-written)*raid.PageSize))
		if _, err := v.WriteAt(want[written*raid.PageSize:], written*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	a := v.lock()
	v.mu.cleanAfter = 1 << 62 // nothing is moved before it dies
	v.unlock(a)
	r.hosts[away.Addr].Down(false)
	waitFor(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.mu.log.UpMembers(0) == 7 && !v.mu.log.ViewDue()
	})
	compareAll(t, v, want)
	die()

	l.Epoch = 3
	v = r.open(l, soon)
	defer closeTest(t, v)
	compareAll(t, v, want)
}
