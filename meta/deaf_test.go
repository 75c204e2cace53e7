package meta

import (
	"testing"
	"time"

	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
)

// A server that beats and says that it accepts nobody is suspect, as one that is
// silent, and down after the grace; it is up when it accepts again. It is heard all
// the time: another server does not get its id.
func TestServerThatAcceptsNobody(t *testing.T) {
	cfg := testConfig(t, "a")
	cfg.SuspectAfter, cfg.Grace = 2*time.Second, 6*time.Second
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Second, n)
	registerServers(t, c, 1)
	beat := func(deaf bool) string {
		t.Helper()
		i := serverInfo(0, 1)
		_, err := c.Heartbeat(t.Context(), server.Heartbeat{ID: i.ID, Incarnation: i.Incarnation, MemoryTotal: gib, NotAccepting: deaf})
		if err != nil {
			t.Fatal(err)
		}
		list, err := c.Servers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list[0].State
	}
	eventually(t, "up", func() bool { return beat(false) == metaclient.ServerUp })
	eventually(t, "suspect", func() bool { return beat(true) == metaclient.ServerSuspect })
	twin := serverInfo(0, 2)
	twin.Addr = "tcp://127.0.0.1:9"
	if err := newClient(t, time.Millisecond, n).Register(t.Context(), twin); err == nil {
		t.Error("another server has its id")
	}
	eventually(t, "down", func() bool { return beat(true) == metaclient.ServerDown })
	eventually(t, "up again", func() bool { return beat(false) == metaclient.ServerUp })
}

// Time in which the leader itself did not run is nobody's fault, nor that of a server
// that accepted nobody before.
func TestStillnessExcusesTheDeaf(t *testing.T) {
	now, gap := time.Now(), 10*time.Second
	var r reign
	r.mu.beats = map[raid.ServerID]beat{"s": {at: now, deaf: now.Add(-time.Second)}}
	r.mu.leases = map[raid.VolumeID]leaseEnd{1: {epoch: 1, at: now}}
	r.excuse(gap)
	if end := r.mu.leases[1].at; !end.Equal(now.Add(gap)) {
		t.Errorf("a lease that nobody could renew ends %v after the standstill", end.Sub(now.Add(gap)))
	}
	if away := r.mu.beats["s"].away(now.Add(gap)); away != time.Second {
		t.Errorf("after %v in which the leader stood still it was away for %v", gap, away)
	}
}
