package meta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
	"dmps/server"
	"dmps/server/standin"
)

func standIn(t *testing.T, id raid.ServerID, incarnation raid.Incarnation) string {
	t.Helper()
	s, err := standin.Start(id, incarnation)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.Addr()
}

// TestServersAreDialledBack: where nobody answers, or another one, is no server: it is
// not up and gets no chunks, and status says why. Once it is found that is forgotten.
func TestServersAreDialledBack(t *testing.T) {
	cfg := testConfig(t, "meta1")
	cfg.dialBack = nil
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Second, n)
	nobody := "tcp://" + heldAddr(t)
	right, other, older := standIn(t, "s1", 7), standIn(t, "s2", 7), standIn(t, "s1", 6)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for what, x := range map[string]struct{ addr, at, why string }{
		"nobody":                 {nobody, nobody, "refused"},
		"another server":         {other, other, `server "s2" answers there`},
		"an older life":          {older, older, "another process of server"},
		"right, and another one": {right + "," + other, other, `server "s2" answers there`},
		"one that says nothing":  {"tcp://" + silent.Addr().String(), silent.Addr().String(), "timeout"},
	} {
		err := c.Register(t.Context(), server.Info{ID: "s1", Incarnation: 7, Addr: x.addr, MemoryTotal: gib})
		if !errors.Is(err, metaclient.ErrInvalid) || !strings.Contains(err.Error(), x.at) || !strings.Contains(err.Error(), x.why) || !strings.Contains(err.Error(), "--advertise") {
			t.Errorf("%s: %v", what, err)
		}
		st, err := c.Status(t.Context())
		if err != nil || len(st.Servers) != 0 || len(st.Unreachable) != 1 {
			t.Fatalf("%s: %+v, %v", what, st, err)
		}
		if u := st.Unreachable[0]; u.ID != "s1" || u.Up || !strings.Contains(x.at, strings.TrimPrefix(u.Addr, "tcp://")) || !strings.Contains(u.Reason, x.why) {
			t.Errorf("%s: status says %+v", what, u)
		}
	}
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 1 << 20, Redundancy: raid.Geometry{K: 1}}); err == nil {
		t.Error("a volume was placed on a server that was not found")
	}
	for what, x := range map[string]struct {
		addr    string
		unfound int
	}{"one of two": {nobody + "," + right, 1}, "all": {right, 0}} {
		if err := c.Register(t.Context(), server.Info{ID: "s1", Incarnation: 7, Addr: x.addr, MemoryTotal: gib}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		st, err := c.Status(t.Context())
		if err != nil || len(st.Servers) != 1 || len(st.Unreachable) != x.unfound || x.unfound == 1 && (!st.Unreachable[0].Up || st.Unreachable[0].Addr != nobody) {
			t.Errorf("%s: %+v, %v", what, st, err)
		}
	}
}

// Who was found once is not dialled again: not when it registers as it is, nor by a leader
// that cannot reach it. A server that moved is.
func TestServersThatWereFoundAreNotDialledAgain(t *testing.T) {
	cfg := testConfig(t, "meta1")
	var dials atomic.Int32
	var reached atomic.Bool
	reached.Store(true)
	cfg.dialBack = func(context.Context, string, *state.Register, string) error {
		dials.Add(1)
		if !reached.Load() {
			return errors.New("no route")
		}
		return nil
	}
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Second, n)
	registerServers(t, c, 3)
	if len(n.dials) > 0 {
		t.Errorf("%d dials take room for ever", len(n.dials))
	}
	reached.Store(false)
	registerServers(t, c, 3)
	if got := dials.Load(); got != 3 {
		t.Errorf("%d dials of three servers", got)
	}
	moved := serverInfo(0, 1)
	moved.Addr = "tcp://127.0.0.1:1"
	if err := c.Register(t.Context(), moved); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("a server that moved to where nobody is: %v", err)
	}
	if err := c.Register(t.Context(), serverInfo(1, 2)); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("a server that began anew where nobody is: %v", err)
	}
	servers, err := c.Servers(t.Context())
	if err != nil || len(servers) != 3 || servers[0].Addr != serverInfo(0, 1).Addr || servers[0].State != metaclient.ServerUp || servers[1].Incarnation != serverInfo(1, 1).Incarnation {
		t.Errorf("a refused registration changed something: %+v, %v", servers, err)
	}
}

// What the present process of an id said while another one was dialled counts: it is not
// driven out by what was so before.
func TestWhoIsHeardDuringTheDialKeepsItsID(t *testing.T) {
	cfg := testConfig(t, "meta1")
	var during func(*state.Register)
	cfg.dialBack = func(_ context.Context, _ string, c *state.Register, _ string) error {
		if during != nil {
			during(c)
		}
		return nil
	}
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Second, n)
	older, present := serverInfo(0, 1), serverInfo(0, 2)
	for _, s := range []server.Info{older, present} {
		if err := c.Register(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.ask(t.Context(), func(r *reign, _ *state.State) error { // it registered long ago
		b := r.mu.beats["s0"]
		b.at = b.at.Add(-cfg.SuspectAfter - time.Second)
		r.mu.beats["s0"] = b
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	during = func(*state.Register) {
		if _, err := (serverAPI{n}).Heartbeat(t.Context(), connect.NewRequest(&metapb.HeartbeatRequest{Id: "s0", Incarnation: uint64(present.Incarnation), MemoryTotal: gib, ChunksHash: 7})); err != nil {
			t.Error(err)
		}
	}
	if err := c.Register(t.Context(), older); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("an older process gets the id of one that is heard: %v", err)
	}
	servers, err := c.Servers(t.Context())
	if err != nil || len(servers) != 1 || servers[0].Incarnation != present.Incarnation {
		t.Errorf("%+v, %v", servers, err)
	}
}

// Nobody has the leader dial more addresses than a server can have rails.
func TestAddressesOfAServerAreBounded(t *testing.T) {
	cfg := testConfig(t, "meta1")
	var dials atomic.Int32
	cfg.dialBack = func(context.Context, string, *state.Register, string) error {
		dials.Add(1)
		return nil
	}
	n := start(t, cfg)
	waitReady(t, n)
	many := serverInfo(0, 1)
	many.Addr = strings.Repeat("tcp://127.0.0.1:1,", maxAddrs) + "tcp://127.0.0.1:1"
	if err := newClient(t, time.Second, n).Register(t.Context(), many); !errors.Is(err, metaclient.ErrInvalid) || dials.Load() != 0 {
		t.Errorf("%d dials: %v", dials.Load(), err)
	}
}

// Who waits in vain for room to be dialled is no server.
func TestNoRoomToDial(t *testing.T) {
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	for range dialsAtOnce {
		n.dials <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.findsServer(ctx, &state.Register{ID: "s1", Incarnation: 7, Addr: "tcp://127.0.0.1:1"}, "c"); !errors.Is(err, errNoQuorum) {
		t.Errorf("a server that was not dialled: %v", err)
	}
}

// Whoever registers under ever new names fills no memory.
func TestUnfoundAreBounded(t *testing.T) {
	var r reign
	for i := range 2 * maxUnfound {
		r.noteUnfoundLocked(raid.ServerID(fmt.Sprint("s", i)), unfound{why: "refused", at: time.Unix(1, 0)})
	}
	if n := len(r.mu.unfound); n != maxUnfound {
		t.Errorf("%d are kept", n)
	}
}

// A new leader goes on with what the one before knew of a server that is suspect.
func TestFirstBeatOfTheHeld(t *testing.T) {
	cfg := Config{SuspectAfter: 2 * time.Second, Grace: 30 * time.Second, MassGrace: 10 * time.Minute}
	now := time.Unix(1000, 0)
	for _, x := range []struct {
		together bool
		silent   time.Duration
		away     time.Duration
	}{{true, 5 * time.Minute, 5 * time.Minute}, {false, 5 * time.Minute, 26 * time.Second}, {false, 10 * time.Second, 10 * time.Second}} {
		b := firstBeat(&state.Server{State: state.ServerSuspect, Silent: x.silent.Milliseconds(), Together: x.together}, now, &cfg)
		if b.held() != x.together || b.away(now) != x.away {
			t.Errorf("%+v: held %v, away for %v", x, b.held(), b.away(now))
		}
	}
}
