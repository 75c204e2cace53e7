package client

import (
	"testing"
	"time"

	"dmps/raid"
)

// Pages that are gone, nobody knows which, are what meta told of the volume: the
// client reports them, and the volume as failed, until the loss is accepted.
func TestUnknownPagesAreReported(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	l.Unknown = 7
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	if r := v.Report(); r.Unknown != 7 || r.State != StateFailed || r.Beside != StateHealthy {
		t.Fatalf("opened with unknown pages: %+v", r)
	}
	m.mu.Lock()
	m.layout.Unknown = 9 // said by nobody who could know: what is gone does not become more without a recovery
	m.layout.Version++
	m.mu.Unlock()
	await(t, v, "hearing of the new layout", func(Report) bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.version == 1 })
	if r := v.Report(); r.Unknown != 7 {
		t.Fatalf("%d unknown pages", r.Unknown)
	}
	m.mu.Lock()
	m.layout.Unknown = 0
	m.layout.Version++
	m.mu.Unlock()
	await(t, v, "healthy when the loss is accepted", func(r Report) bool { return r.Unknown == 0 && r.State == StateHealthy })
}

// Who attaches what is left of a volume of which groups have lost all has it served,
// and failed from the beginning, for meta too: what it misses reads as zeros.
func TestNothingLeftIsNotHealthy(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	v := openTest(t, f, l)
	all := make([]byte, 64*raid.PageSize)
	for p := range 64 {
		stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
	}
	if _, err := v.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	m := newFakeMeta(l)
	for _, id := range []string{"s0", "s1", "s2"} {
		f.kill(id)
		f.restart(id)
		m.reseat(f, id)
	}
	again, _ := m.Layout(t.Context(), 1, 0)
	again.Epoch, again.FirstEpoch = 2, false
	b := &book{fakeMeta: m, deadAfter: -1}
	cfg := Config{
		Layout: again, Meta: b, Lease: Lease{TTL: time.Hour, Renew: time.Hour}, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(),
		Patience: time.Second, DialTimeout: time.Second, AcceptLoss: true,
	}
	v, err := Open(t.Context(), cfg)
	if err != nil {
		return // to refuse is as good
	}
	defer closeTest(t, v)
	if r := b.heard(); r.Unknown != 64 || r.State != StateFailed || len(r.Rebuilt) > 0 {
		t.Errorf("meta was told before it is served: %d unknown pages, %s, chunks %v hold everything", r.Unknown, r.State, r.Rebuilt)
	}
	if r := v.Report(); r.Unknown != 64 || r.State != StateFailed {
		t.Errorf("%d unknown pages, %s", r.Unknown, r.State)
	}
}
