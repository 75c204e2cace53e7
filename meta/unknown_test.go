package meta

import (
	"fmt"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// What a client reports as gone, nobody knows which, makes its volume failed for
// whoever asks, also after the client and the leader are gone, and is told to the
// next client; a loss that was accepted is not brought back by a client that has
// yet to hear of it.
func TestUnknownPagesAreRemembered(t *testing.T) {
	cfg := testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 3)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 64 << 20, Redundancy: raid.Geometry{K: 1, M: 2}}); err != nil {
		t.Fatal(err)
	}
	attach := func(unknown uint64) *raid.Layout {
		t.Helper()
		l, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"})
		if err != nil || l.Unknown != unknown {
			t.Fatalf("attached with %d unknown pages, want %d: %v", l.Unknown, unknown, err)
		}
		return l
	}
	renew := func(l *raid.Layout, unknown, known uint64) {
		t.Helper()
		r := client.Report{State: client.StateHealthy, RedundancyLeft: 2, Unknown: unknown, Known: known}
		if unknown > 0 {
			r.State, r.Beside = client.StateFailed, r.State // as a client says it
		}
		if _, err := c.Renew(t.Context(), l.Volume, l.Epoch, r); err != nil {
			t.Fatal(err)
		}
	}
	shows := func(unknown uint64) {
		t.Helper()
		v, _, err := c.Volume(t.Context(), "v")
		if err != nil {
			t.Fatal(err)
		}
		if got := metric(t, n, `dmps_meta_volume_unknown_pages{volume="v"}`); got != fmt.Sprint(unknown) {
			t.Errorf("the metric says %s, want %d", got, unknown)
		}
		if v.Unknown != unknown || (v.State == client.StateFailed) != (unknown > 0) || v.UnknownSince.IsZero() != (unknown == 0) {
			t.Fatalf("%s with %d unknown pages since %v, want %d", v.State, v.Unknown, v.UnknownSince, unknown)
		}
	}
	l := attach(0)
	renew(l, 5, l.Version)
	shows(5)
	if err := c.Detach(t.Context(), l.Volume, l.Epoch); err != nil {
		t.Fatal(err)
	}
	shows(5)
	stop(t, n)
	n = start(t, cfg)
	waitReady(t, n)
	c = newClient(t, time.Minute, n)
	shows(5)
	l = attach(5)
	renew(l, 5, l.Version)
	if pages, err := c.AcceptLoss(t.Context(), "v"); err != nil || pages != 5 {
		t.Fatalf("%d pages accepted, %v", pages, err)
	}
	shows(0)
	renew(l, 5, l.Version) // it has not heard
	shows(0)
	if pages, err := c.AcceptLoss(t.Context(), "v"); err != nil || pages != 0 {
		t.Fatalf("%d pages accepted again, %v", pages, err)
	}
	attach(0)
}
