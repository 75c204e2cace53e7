package client

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"dmps/raid"
)

// Of pages that were told by a note that cannot be read any more not even the number
// is known: all of which the map says nothing count.
func TestUnreadableNoteCountsAllItMayHaveTold(t *testing.T) {
	const n = 64
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, n, 1, 512)
	v := openTest(t, f, l)
	if _, err := v.WriteAt(bytes.Repeat([]byte{7}, n*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	for _, m := range l.Groups[0].Members {
		for slot := range 512 {
			f.corrupt(m.Addr, uint64(m.Chunk), slot, 0)
		}
	}
	again := *l
	again.Epoch, again.FirstEpoch = 2, false
	v, err := Open(t.Context(), Config{
		Layout: &again, Meta: newFakeMeta(&again), Lease: Lease{TTL: time.Hour, Renew: time.Hour}, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(),
		Patience: time.Second, DialTimeout: time.Second, AcceptLoss: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v)
	b := make([]byte, raid.PageSize)
	zeros := uint64(0)
	for p := range n {
		if _, err := v.ReadAt(b, int64(p)*raid.PageSize); err == nil && b[0] == 0 {
			zeros++
		}
	}
	if r := v.Report(); zeros == 0 || r.Unknown < zeros || r.State != StateFailed {
		t.Errorf("%d pages read as zeros, %d are unknown, %s", zeros, r.Unknown, r.State)
	}
}

// A client that knew which pages are lost ends in order. The next one may not know
// them, and then counts at least as many as unknown, for meta too before it serves.
func TestKnownLossAfterARestart(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 4, M: 2}, {K: 2, M: 1}, {K: 3, M: 2}} {
		for _, accepts := range []bool{false, true} {
			t.Run(fmt.Sprint(g, ", a loss is accepted meanwhile: ", accepts), func(t *testing.T) { knownLossAfterARestart(t, g, accepts) })
		}
	}
}

// rememberer is a metadata service that remembers how many pages are unknown, unless the
// loss was accepted and who reports has not heard of it.
type rememberer struct {
	book
	accepted uint64 // version of the layout
}

func (k *rememberer) Renew(ctx context.Context, v raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	k.fakeMeta.mu.Lock()
	if r.Known >= k.accepted {
		k.layout.Unknown = r.Unknown
	}
	k.fakeMeta.mu.Unlock()
	return k.book.Renew(ctx, v, e, r)
}

func knownLossAfterARestart(t *testing.T, g raid.Geometry, accepts bool) {
	const n = 256
	f := newFakeNet(g.Members())
	l := f.layout(raid.LayoutLog, g, n, 3, 128)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	all := make([]byte, n*raid.PageSize)
	for p := range n {
		stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
	}
	if _, err := v.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	for i := range g.M + 1 {
		id := fmt.Sprint("s", i)
		f.kill(id)
		f.restart(id)
		m.reseat(f, id)
	}
	await(t, v, "knowing what is lost", func(r Report) bool { return len(r.Suspect) == 0 && r.LostPages > 0 && onlyLost(v) })
	known := v.Report().LostPages
	closeTest(t, v)
	again, _ := m.Layout(t.Context(), 1, 0)
	again.Epoch, again.FirstEpoch = 2, false
	b := &rememberer{book: book{fakeMeta: m, deadAfter: -1}}
	if accepts { // a loss of before, while this client is on its way
		m.mu.Lock()
		m.layout.Version++
		b.accepted = m.layout.Version
		m.mu.Unlock()
	}
	v, err := Open(t.Context(), Config{
		Layout: again, Meta: b, Lease: Lease{TTL: time.Hour, Renew: time.Hour}, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(),
		Patience: time.Second, DialTimeout: time.Second, AcceptLoss: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v)
	page, wrong := make([]byte, raid.PageSize), uint64(0)
	for p := range n {
		if _, err := v.ReadAt(page, int64(p)*raid.PageSize); err == nil && stamped(page, p, 1) != nil {
			wrong++
		}
	}
	m.mu.Lock()
	kept := m.layout.Unknown
	m.mu.Unlock()
	if kept < wrong || kept == 0 {
		t.Errorf("meta keeps %d unknown pages, %d read wrong", kept, wrong)
	}
	for who, r := range map[string]Report{"told to meta": b.heard(), "now": v.Report()} {
		if r.State != StateFailed || r.Unknown == 0 || r.Unknown < wrong {
			t.Errorf("%s: %d pages were lost, %d read wrong; %s with %d lost, %d unknown", who, known, wrong, r.State, r.LostPages, r.Unknown)
		}
	}
	// Members that were replaced may hold them, as far as is known, before they are compared.
	await(t, v, "as many lost or unknown as were lost", func(r Report) bool { return r.LostPages+r.Unknown >= known })
	t.Logf("%d lost before; %d read wrong, %d unknown", known, wrong, v.Report().Unknown)
}
