package meta

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
)

// Most servers fall silent at once, and come back: nothing was replaced. Those that stay away
// are, later than one that is alone. And few that are silent are as ever.
func TestSilentTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		defer v.stop(0)
		at := v.leader(0)
		f := newFleet(v, at, 8)
		f.attach()
		states := func(want metapb.ServerState, from, to int, held bool) {
			t.Helper()
			res, err := serverAPI{v.nodes[at]}.ListServers(context.Background(), connect.NewRequest(&metapb.ListServersRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range res.Msg.Servers[from:to] {
				until := time.UnixMilli(s.HeldUntilUnixMs)
				if s.State != want || (s.HeldUntilUnixMs != 0) != held || held && until.Before(time.Now()) {
					t.Errorf("%s is %v, held until %v", s.Id, s.State, until)
				}
			}
		}
		quiet := func(is bool, from, to int) {
			for i := from; i < to; i++ {
				f.quiet[fmt.Sprintf("s%d", i)] = is
			}
		}
		// after is who began anew on a host that was started again.
		after := func(i int) error {
			_, err := serverAPI{v.nodes[at]}.Register(context.Background(), connect.NewRequest(&metapb.RegisterRequest{
				Id: fmt.Sprintf("s%d", i), Incarnation: 99, Addr: "tcp://new", MemoryTotal: gib, Boot: "b2", Machine: "m",
			}))
			return err
		}
		before, _ := f.volume()
		quiet(true, 0, 5)
		f.run(120)
		states(metapb.ServerState_SERVER_STATE_SUSPECT, 0, 5, true)
		states(metapb.ServerState_SERVER_STATE_UP, 5, 8, false)
		if now, _ := f.volume(); now.Version != before.Version {
			t.Errorf("something was replaced: version %d, not %d", now.Version, before.Version)
		}
		quiet(false, 1, 5)
		f.run(3) // the one that is left alone was held with the others
		states(metapb.ServerState_SERVER_STATE_UP, 1, 8, false)
		states(metapb.ServerState_SERVER_STATE_SUSPECT, 0, 1, true)
		f.run(600)
		states(metapb.ServerState_SERVER_STATE_DOWN, 0, 1, false)
		quiet(true, 1, 3)
		f.run(33)
		states(metapb.ServerState_SERVER_STATE_DOWN, 1, 3, false)

		// A power failure: whose host was started again is not waited for.
		quiet(false, 0, 3)
		f.run(1)
		quiet(true, 0, 7)
		f.run(10)
		states(metapb.ServerState_SERVER_STATE_SUSPECT, 0, 7, true)
		if err := after(0); reasonCode(err) != metapb.Reason_CODE_ID_AWAITED {
			t.Fatalf("it is silent for a moment: %v", err)
		}
		states(metapb.ServerState_SERVER_STATE_SUSPECT, 0, 1, false)
		f.run(25)
		states(metapb.ServerState_SERVER_STATE_DOWN, 0, 1, false)
		states(metapb.ServerState_SERVER_STATE_SUSPECT, 1, 7, true)
		if err := after(0); err != nil {
			t.Error(err)
		}
		if err := after(1); reasonCode(err) != metapb.Reason_CODE_ID_AWAITED {
			t.Error(err)
		}
		f.run(1)
		if err := after(1); err != nil {
			t.Error(err)
		}
	})
}
