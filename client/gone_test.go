package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"dmps/raid"
)

// reseat gives every member on these servers a new chunk on the same one, which
// is what meta does when they came back empty and there are no others.
func (m *fakeMeta) reseat(f *fakeNet, ids ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range m.layout.Groups {
		for c := range m.layout.Groups[i].Members {
			mem := &m.layout.Groups[i].Members[c]
			if !slices.Contains(ids, mem.Addr) {
				continue
			}
			m.chunk++
			mem.Incarnation, mem.Chunk, mem.State = raid.Incarnation(f.servers[mem.Addr].inc), m.chunk, raid.MemberRebuilding
		}
	}
	m.layout.Version++
}

// TestMoreThanMLostAtOnce loses M+1 of K+M servers, which come back empty. What
// their pages held answers with an error, all the rest is right, and stands on
// K+M members again before anything else is lost. When the lost pages, and only
// they, are written anew or trimmed, the volume is healthy.
func TestMoreThanMLostAtOnce(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 4, M: 2}, {K: 2, M: 1}, {K: 3, M: 2}} {
		for _, how := range []string{"written", "trimmed"} {
			t.Run(fmt.Sprint(g, " ", how), func(t *testing.T) { moreThanMLost(t, g, how == "trimmed") })
		}
	}
}

func moreThanMLost(t *testing.T, g raid.Geometry, trim bool) {
	const pages = 256
	f := newFakeNet(g.Members())
	l := f.layout(raid.LayoutLog, g, pages, 3, 128)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	b := make([]byte, raid.PageSize)
	write := func(p, version int) {
		t.Helper()
		stamp(b, p, uint64(version))
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatalf("writing page %d: %v", p, err)
		}
	}
	all := make([]byte, pages*raid.PageSize) // in full rows, of which some columns are lost and some are not
	for p := range pages {
		stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
	}
	if _, err := v.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range g.M + 1 {
		ids = append(ids, fmt.Sprint("s", i))
		f.kill(ids[i])
		f.restart(ids[i])
	}
	m.reseat(f, ids...)
	await(t, v, "all members are there", func(r Report) bool { return len(r.Suspect) == 0 && r.RebuildRows > 0 })

	version := make([]uint64, pages)
	gone := 0
	for p := range version {
		version[p] = 1
		switch _, err := v.ReadAt(b, int64(p)*raid.PageSize); {
		case errors.Is(err, ErrLost):
			gone++
			version[p] = 2
		case err != nil:
			t.Fatalf("page %d: %v", p, err)
		}
	}
	if gone == 0 || gone == pages {
		t.Fatalf("%d of %d pages are gone", gone, pages)
	}
	// The last copies of the others are moved to where they have redundancy.
	await(t, v, "only what is lost is degraded", func(r Report) bool {
		return r.State == StateFailed && r.LostPages == uint64(gone) && r.RebuildRows > 0 && onlyLost(v)
	})
	for p := range version {
		if version[p] == 1 {
			continue
		}
		if !trim {
			write(p, 2)
			continue
		}
		if err := v.Trim(int64(p)*raid.PageSize, raid.PageSize); err != nil {
			t.Fatalf("trimming page %d: %v", p, err)
		}
		version[p] = 0
	}
	waitHealed(t, v, m)
	if r := v.Report(); r.LostPages != 0 || r.RedundancyLeft != g.M {
		t.Fatalf("in the end: %+v", r)
	}
	f.kill("s0") // the redundancy is real
	verifyVersions(t, v, version)
}

// onlyLost reports whether every live slot in a row that some member misses is
// one that is gone.
func onlyLost(v *Volume) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.log.HealVictims(nil) == nil
}

func await(t *testing.T, v *Volume, what string, ok func(Report) bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(v.Report()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: never: %+v", what, v.Report())
		}
	}
}

// A page whose own member is merely away is waited for, although the others of its
// row are gone and it cannot be made from them.
func TestLastCopyIsWaitedFor(t *testing.T) {
	const pages = 64
	g := raid.Geometry{K: 4, M: 2}
	f := newFakeNet(g.Members())
	l := f.layout(raid.LayoutLog, g, pages, 1, 128)
	v := openTest(t, f, l, func(c *Config) { c.Patience = time.Minute })
	defer closeTest(t, v)
	all := make([]byte, pages*raid.PageSize)
	for p := range pages {
		stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
	}
	if _, err := v.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"s1", "s2", "s4"} {
		f.kill(id)
		f.restart(id) // empty: what it held is gone at once
	}
	wait(t, "noticing what is gone", v, func() bool { return v.Report().LostPages > 0 })
	f.away("s0", true)
	wait(t, "suspecting the last one", v, func() bool { return len(v.Report().Suspect) > 0 })
	got := make(chan error, pages)
	for p := range pages {
		go func() {
			b := make([]byte, raid.PageSize)
			_, err := v.ReadAt(b, int64(p)*raid.PageSize)
			if err == nil {
				err = stamped(b, p, 1)
			}
			got <- err
		}()
	}
	wait(t, "waiting for the last copies", v, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.stalled != nil })
	f.away("s0", false)
	right := 0
	for range pages {
		switch err := <-got; {
		case err == nil:
			right++
		case !errors.Is(err, ErrLost):
			t.Error(err)
		}
	}
	if right != pages/2 { // columns 0 and 3
		t.Errorf("%d of %d pages were read, half of them have their own member", right, pages)
	}
}
