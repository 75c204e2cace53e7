package meta

import (
	"sync/atomic"
	"testing"
	"time"

	"dmps/meta/state"
)

// What is made of a silence is written together, whoever it concerns.
func TestVerdictsAreWrittenTogether(t *testing.T) {
	const servers = 60
	var writes atomic.Int64
	cfg := testConfig(t, "meta1")
	cfg.SuspectAfter, cfg.Grace = time.Minute, time.Hour
	cfg.beforeLog = func() error { writes.Add(1); return nil }
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, servers)
	r, _, err := n.leading(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := writes.Load()
	r.mu.Lock()
	for id, b := range r.mu.beats {
		b.at = b.at.Add(-2 * time.Minute)
		r.mu.beats[id] = b
	}
	r.mu.Unlock()
	eventually(t, "all are suspect", func() bool {
		suspect := 0
		if err := n.disks.state.View(func(s *state.State) {
			for _, sv := range s.Servers {
				if sv.State == state.ServerSuspect {
					suspect++
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		return suspect == servers
	})
	if n := writes.Load() - before; n > servers/2 {
		t.Errorf("%d writes of the log for %d servers", n, servers)
	} else {
		t.Logf("%d writes of the log", n)
	}
}
