package meta

import (
	"errors"
	"strings"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
)

// While servers have sessions of a client whose lease has run out, nobody else gets its
// volume without asking for that, and nobody deletes it.
func TestSessionsKeepALease(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	cfg.LeaseTTL = 300 * time.Millisecond
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 3)
	var owned []raid.VolumeID
	for _, name := range []string{"v", "w", "x"} {
		if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: name, Size: 16 << 20, Redundancy: raid.Geometry{K: 1, M: 1}}); err != nil {
			t.Fatal(err)
		}
		l, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: name, Holder: "pages"})
		if err != nil {
			t.Fatal(err)
		}
		owned = append(owned, l.Volume)
	}
	beat := func(owned ...raid.VolumeID) {
		t.Helper()
		info := serverInfo(0, 1)
		if _, err := c.Heartbeat(t.Context(), server.Heartbeat{ID: info.ID, Incarnation: info.Incarnation, MemoryTotal: gib, Owned: owned}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the leases have run out", func() bool {
		for _, name := range []string{"v", "w", "x"} {
			if v, _, err := c.Volume(t.Context(), name); err != nil || v.Lease == nil || v.Lease.Remaining > 0 {
				return false
			}
		}
		return true
	})
	kept := func(err error, force string) {
		t.Helper()
		if !errors.Is(err, client.ErrInUse) || !strings.Contains(err.Error(), "attached by pages") ||
			!strings.Contains(err.Error(), "have sessions") || !strings.Contains(err.Error(), force) {
			t.Errorf("while a server has a session of the client: %v", err)
		}
	}
	attach := func(volume string, takeover bool) error {
		beat(owned...)
		_, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: volume, Holder: "other", Takeover: takeover})
		return err
	}
	kept(attach("v", false), "--takeover")
	beat(owned...)
	kept(c.DeleteVolume(t.Context(), "w", false), "--force")
	if err := attach("v", true); err != nil {
		t.Errorf("by takeover: %v", err)
	}
	beat(owned...)
	if err := c.DeleteVolume(t.Context(), "w", true); err != nil {
		t.Errorf("by force: %v", err)
	}
	// The client is gone, and its sessions.
	eventually(t, "the volume can be had", func() bool {
		beat()
		_, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "x", Holder: "other"})
		return err == nil
	})
}
