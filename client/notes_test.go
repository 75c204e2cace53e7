package client

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// Single pages are filled and trimmed in random order, one after the other, each
// in a note of its own: many times what the table of notes holds. None fails.
func TestManySmallTrims(t *testing.T) {
	const pages = 4096 // four for each entry that the smallest table has
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 3, pages*5/4/3/2+64)
	v := openTest(t, f, l, func(c *Config) { c.Patience = 30 * time.Second }) // the machine may be busy
	defer closeTest(t, v)
	r := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, pages)
	buf := make([]byte, raid.PageSize)
	most := 0
	for n := range 4 * pages {
		p := r.IntN(pages)
		var err error
		if want[p] != 0 && r.IntN(3) == 0 {
			want[p] = 0
			err = v.Trim(int64(p)*raid.PageSize, raid.PageSize)
		} else {
			want[p] = byte(1 + r.IntN(255))
			fillPage(buf, want[p])
			_, err = v.WriteAt(buf, int64(p)*raid.PageSize)
		}
		if err != nil {
			t.Fatalf("operation %d on page %d: %v", n, p, err)
		}
		v.mu.Lock()
		most = max(most, v.mu.log.Stats().Notes)
		v.mu.Unlock()
	}
	if most < 800 {
		t.Errorf("the table never had more than %d notes: nothing was tried", most)
	}
	got := make([]byte, raid.PageSize)
	for p := range want {
		if _, err := v.ReadAt(got, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		if fillPage(buf, want[p]); !bytes.Equal(got, buf) {
			t.Fatalf("page %d begins with %d, not %d", p, got[0], want[p])
		}
	}
	if err := v.check(); err != nil {
		t.Error(err)
	}
}
