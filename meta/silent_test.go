package meta

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

// awaitState lets time pass until a server is seen so, and says how long it took.
func (f *fleet) awaitState(id string, want metapb.ServerState, most time.Duration) time.Duration {
	f.v.t.Helper()
	began := time.Now()
	for f.server(id).State != want {
		if time.Since(began) > most {
			f.v.t.Fatalf("%s is %v after %v, not %v", id, f.server(id).State, most, want)
		}
		f.run(1)
	}
	return time.Since(began)
}

// TestSilenceOutlivesTheLeader: for how long a server was silent counts for the next leader,
// and that it fell silent with others; a server that was up begins anew.
func TestSilenceOutlivesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 3)
		defer func() {
			for i := range v.nodes {
				v.stop(i)
			}
		}()
		f := newFleet(v, v.leader(0, 1, 2), 8)
		f.run(3)
		began := time.Now()
		f.quiet["s0"] = true
		f.run(20)
		v.cut(f.at)
		f.at = v.leader((f.at+1)%3, (f.at+2)%3)
		f.awaitState("s0", metapb.ServerState_SERVER_STATE_DOWN, time.Minute)
		if took := time.Since(began); took < 30*time.Second || took > 45*time.Second {
			t.Errorf("a server that was silent for 20 s under the leader before is down after %v", took)
		}
		for i := 1; i < 8; i++ {
			if s := f.server(fmt.Sprint("s", i)); s.State != metapb.ServerState_SERVER_STATE_UP {
				t.Errorf("%s is %v", s.Id, s.State)
			}
		}
	})
}

// TestNobodyIsBlamedForAnOutage: time in which there was no leader does not count as silence,
// and a leader that begins gives who was suspect time to be heard.
func TestNobodyIsBlamedForAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 3)
		defer func() {
			for i := range v.nodes {
				v.stop(i)
			}
		}()
		f := newFleet(v, v.leader(0, 1, 2), 8)
		f.run(3)
		f.quiet["s0"] = true
		f.run(10)
		for i := range v.nodes {
			v.cut(i)
		}
		time.Sleep(5 * time.Minute)
		for i := range v.nodes {
			for j := range i {
				v.link(i, j)
			}
		}
		f.at = v.leader(0, 1, 2)
		for range 10 {
			f.run(1)
			for i := range 8 {
				want := metapb.ServerState_SERVER_STATE_UP
				if i == 0 {
					want = metapb.ServerState_SERVER_STATE_SUSPECT
				}
				if s := f.server(fmt.Sprint("s", i)); s.State != want {
					t.Fatalf("%s is %v after the outage", s.Id, s.State)
				}
			}
		}
		if took := f.awaitState("s0", metapb.ServerState_SERVER_STATE_DOWN, time.Minute); took > 20*time.Second {
			t.Errorf("it is down %v later: its ten seconds before the outage do not count", took)
		}
	})
}

// TestHeldByTheNextLeader: those that fell silent together get their time under the next
// leader too, also when most of them are back by then.
func TestHeldByTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 3)
		defer func() {
			for i := range v.nodes {
				v.stop(i)
			}
		}()
		f := newFleet(v, v.leader(0, 1, 2), 8)
		f.run(3)
		for i := range 5 {
			f.quiet[fmt.Sprint("s", i)] = true
		}
		f.run(60)
		for i := 1; i < 5; i++ {
			f.quiet[fmt.Sprint("s", i)] = false
		}
		f.run(3)
		v.cut(f.at)
		f.at = v.leader((f.at+1)%3, (f.at+2)%3)
		f.run(60)
		if s := f.server("s0"); s.State != metapb.ServerState_SERVER_STATE_SUSPECT || s.HeldUntilUnixMs == 0 {
			t.Errorf("s0 is %v, held until %d", s.State, s.HeldUntilUnixMs)
		}
		f.awaitState("s0", metapb.ServerState_SERVER_STATE_DOWN, 10*time.Minute)
	})
}

// TestFirstBeat: what a leader assumes of servers when it begins.
func TestFirstBeat(t *testing.T) {
	cfg := &Config{SuspectAfter: 2 * time.Second, Grace: 30 * time.Second, MassGrace: 10 * time.Minute}
	now := time.Now()
	for _, c := range []struct {
		state    state.ServerState
		silent   time.Duration
		together bool
		away     time.Duration
	}{
		{state.ServerUp, 0, false, -time.Second},
		{state.ServerSuspect, 2 * time.Second, false, 2 * time.Second},
		{state.ServerSuspect, 20 * time.Second, false, 20 * time.Second},
		{state.ServerSuspect, 29 * time.Second, false, 26 * time.Second}, // it may be about to be heard
		{state.ServerSuspect, 5 * time.Minute, true, 5 * time.Minute},
		{state.ServerDown, 0, false, -time.Second},
	} {
		b := firstBeat(&state.Server{State: c.state, Silent: c.silent.Milliseconds(), Together: c.together}, now, cfg)
		if away := b.away(now); away != c.away || b.held() != c.together {
			t.Errorf("%+v: away for %v, held %v", c, away, b.held())
		}
	}
}
