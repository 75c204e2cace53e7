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
	if r := v.Report(); r.Unknown != 7 || r.State != StateFailed {
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
