package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// A page that is lost keeps its row until it is written anew or trimmed. Who writes in
// random order after such a loss may find no free row before enough of that is done. Trims
// and zeros find some all the same: with them the volume is as good as new.
func TestTrimsFindRoomWhenLostPagesHaveAllRows(t *testing.T) {
	for _, how := range []string{"trim", "zero"} {
		t.Run(how, virtual(func(t *testing.T) { trimPinned(t, how) }))
	}
}

func trimPinned(t *testing.T, how string) {
	const pages, used = 2048, 2048 * 4 / 5
	g := raid.Geometry{K: 4, M: 2}
	f := newSlowNet(g.Members())
	l := f.layout(raid.LayoutLog, g, pages, 3, pages*100/80/4/3+3)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	rnd := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, raid.PageSize)
	write := func(p int, version uint64) error {
		stamp(b, p, version)
		_, err := v.WriteAt(b, int64(p)*raid.PageSize)
		return err
	}
	for _, order := range [][]int{rnd.Perm(used), rnd.Perm(used)} { // twice, as when it has been in use
		for _, p := range order {
			if err := write(p, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	var ids []string
	for i := range g.M + 1 {
		ids = append(ids, fmt.Sprint("s", i))
		f.kill(ids[i])
		f.restart(ids[i])
	}
	m.reseat(f, ids...)
	await(t, v, "all members are there", func(r Report) bool { return len(r.Suspect) == 0 && r.RebuildRows > 0 && r.LostPages > 0 })
	starved := false
	for _, p := range rnd.Perm(used) {
		if err := write(p, 2); errors.Is(err, ErrNoSpace) {
			starved = true
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !starved {
		t.Fatal("there was always a row: this test shows nothing")
	}
	for p := int64(0); p < used; p += 64 { // piece by piece, as a front end does
		err := v.Trim(p*raid.PageSize, 64*raid.PageSize)
		if how == "zero" {
			_, err = v.WriteAt(make([]byte, 64*raid.PageSize), p*raid.PageSize)
		}
		if err != nil {
			t.Fatalf("%d pages are lost: %s of pages from %d: %v", v.Report().LostPages, how, p, err)
		}
	}
	waitHealed(t, v, m)
	version := make([]uint64, used)
	for p := range version {
		version[p] = 3
		if err := write(p, 3); err != nil {
			t.Fatal(err)
		}
	}
	verifyVersions(t, v, version)
	f.kill("s3")
	verifyVersions(t, v, version)
}
