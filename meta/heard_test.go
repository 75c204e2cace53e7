package meta

import (
	"context"
	"testing"
	"time"

	"dmps/meta/metaclient"
	"dmps/meta/state"
	"dmps/raid"
)

// A server may be heard between the verdict that it is down and the command that says so, or
// while no node leads. Nothing that it holds is replaced until it was silent since.
func TestWhoIsHeardIsNotReplaced(t *testing.T) {
	n := start(t, testConfig(t, "m"))
	waitReady(t, n)
	c := newClient(t, 30*time.Second, n)
	registerServers(t, c, 3)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 1 << 20, Redundancy: raid.Geometry{K: 1, M: 1}}); err != nil {
		t.Fatal(err)
	}
	on := func(id raid.ServerID) (members int) {
		if err := n.disks.state.View(func(s *state.State) { members = int(s.Servers[id].Chunks) }); err != nil {
			t.Fatal(err)
		}
		return members
	}
	id := raid.ServerID("s0")
	if on(id) == 0 {
		id = "s1"
	}
	inc := raid.Incarnation(100)
	if id == "s1" {
		inc = 101
	}
	had := on(id)
	if _, err := n.propose(t.Context(), &state.Command{SetServer: &state.SetServer{ID: id, Incarnation: inc, State: state.ServerDown}}); err != nil {
		t.Fatal(err)
	}
	r, _, err := n.leading(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	heal := func() {
		var h healer
		h.heal(context.Background(), n, r)
	}
	heal()
	if is := on(id); is != had {
		t.Errorf("%s was heard a moment ago, and has %d members of %d left", id, is, had)
	}
	r.mu.Lock()
	b := r.mu.beats[id]
	b.at = b.at.Add(-2 * time.Hour)
	r.mu.beats[id] = b
	r.mu.Unlock()
	heal()
	if is := on(id); is != 0 {
		t.Errorf("%s is silent, and has %d members left", id, is)
	}
}

// Only a heartbeat brings a server back: to a leader that is new one that is down is not
// merely suspect, or it would get another grace and what it holds would wait.
func TestDownStaysDown(t *testing.T) {
	cfg := testConfig(t, "m")
	cfg.SuspectAfter = time.Minute
	n := start(t, cfg)
	waitReady(t, n)
	registerServers(t, newClient(t, 30*time.Second, n), 1)
	if _, err := n.propose(t.Context(), &state.Command{SetServer: &state.SetServer{ID: "s0", Incarnation: 100, State: state.ServerDown}}); err != nil {
		t.Fatal(err)
	}
	r, _, err := n.leading(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	b := r.mu.beats["s0"]
	b.at = b.at.Add(-2 * time.Minute)
	r.mu.beats["s0"] = b
	r.mu.Unlock()
	n.judge(context.Background(), r)
	if err := n.disks.state.View(func(s *state.State) {
		if is := s.Servers["s0"].State; is != state.ServerDown {
			t.Errorf("it is %v", is)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// A life that registered, without that the call came to note it, is not judged by the silence
// of the one before.
func TestNewLifeIsNotJudgedByTheFormer(t *testing.T) {
	n := start(t, testConfig(t, "m"))
	waitReady(t, n)
	registerServers(t, newClient(t, 30*time.Second, n), 1)
	r, _, err := n.leading(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock() // nobody judges meanwhile
	b := r.mu.beats["s0"]
	b.at = b.at.Add(-2 * time.Hour)
	r.mu.beats["s0"] = b
	_, err = n.propose(t.Context(), &state.Command{Register: &state.Register{ID: "s0", Incarnation: 200, Addr: serverInfo(0, 1).Addr, MemoryTotal: gib}})
	r.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	n.judge(t.Context(), r)
	if err := n.disks.state.View(func(s *state.State) {
		if sv := s.Servers["s0"]; sv.State != state.ServerUp || sv.Incarnation != 200 {
			t.Errorf("life %d is %v", sv.Incarnation, sv.State)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
