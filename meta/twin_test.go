package meta

import (
	"errors"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
)

// A second server with an id, on another machine, does not get it while the first is
// only silent: what that one holds counts on.
func TestTwinWaitsUntilDown(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	cfg.SuspectAfter, cfg.Grace = 200*time.Millisecond, time.Hour
	n := start(t, cfg)
	waitReady(t, n)
	as := func(h metaclient.Host) *metaclient.Client {
		c, err := metaclient.New([]string{n.APIURL()}, metaclient.WithPatience(10*time.Millisecond), metaclient.WithHost(h))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	first, clone := as(metaclient.Host{Machine: "m1", Boot: "b1"}), as(metaclient.Host{Machine: "m1", Boot: "b2"})
	registerServers(t, first, 4)
	if _, err := first.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 64 << 20, Redundancy: raid.Geometry{K: 2, M: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := first.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := clone.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"}); !errors.Is(err, client.ErrInUse) {
		t.Errorf("the holder's name on a clone: %v", err)
	}
	info := serverInfo(0, 1)
	beat := server.Heartbeat{ID: info.ID, Incarnation: info.Incarnation, MemoryTotal: info.MemoryTotal}
	twin := info // with its address too: a copied file of settings
	twin.Incarnation = 4242
	refused := func(want error) {
		t.Helper()
		if err := clone.Register(t.Context(), twin); !errors.Is(err, want) {
			t.Fatalf("a twin: %v, want %v", err, want)
		}
	}
	eventually(t, "it lives", func() bool {
		_, err := first.Heartbeat(t.Context(), beat)
		return err == nil && errors.Is(clone.Register(t.Context(), twin), metaclient.ErrIDInUse)
	})
	eventually(t, "it is suspect", func() bool {
		servers, err := first.Servers(t.Context())
		return err == nil && servers[0].State == metaclient.ServerSuspect
	})
	refused(metaclient.ErrIDAwaited)
	if r, err := first.Heartbeat(t.Context(), beat); err != nil || r.Unknown {
		t.Errorf("the first one, heard again: %+v, %v", r, err)
	}
	_, l, err := first.Volume(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range l.Groups {
		for _, m := range g.Members {
			if m.State != raid.MemberInSync {
				t.Fatalf("member %+v", m)
			}
		}
	}
}
