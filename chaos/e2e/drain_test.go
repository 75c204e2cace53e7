package e2e

import (
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// drainLimit bounds how long a server of this suite may take to be drained.
const drainLimit = 30 * time.Second

// TestRollingDrain drains, stops, removes and starts again one server after
// another under load, each time empty: the volume is never reported degraded.
// In the end memory use is evened out.
func TestRollingDrain(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers, d.Grace = 8, "3s" })
	m, err := metaclient.New([]string{c.Meta[0].API})
	must(t, err)
	defer m.Close()
	ctx := testCtx(t)
	ld := c.startLoad()
	whole := func() metaclient.Volume {
		t.Helper()
		st, err := m.Status(ctx)
		must(t, err)
		if len(st.Volumes) != 1 {
			t.Fatalf("%d volumes", len(st.Volumes))
		}
		if v := st.Volumes[0]; v.State != "healthy" || v.DegradedGroups != 0 || v.StuckMembers != 0 {
			t.Fatalf("a move degrades the volume: %+v", v)
		}
		return st.Volumes[0]
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(drainLimit); !ok(); time.Sleep(30 * time.Millisecond) {
			whole()
			if time.Now().After(deadline) {
				t.Fatalf("%s: not in time: %+v", what, whole())
			}
		}
	}
	server := func(id string) metaclient.Server {
		t.Helper()
		all, err := m.Servers(ctx)
		must(t, err)
		for _, s := range all {
			if s.ID == raid.ServerID(id) {
				return s
			}
		}
		return metaclient.Server{}
	}
	for i := range 3 {
		s := &c.Servers[i]
		ld.more(1000)
		must(t, m.DrainServer(ctx, raid.ServerID(s.ID)))
		until("draining "+s.ID, func() bool { sv := server(s.ID); return sv.Chunks == 0 && sv.MemoryUsed == 0 })
		must(t, c.Kill(*s))
		until("removing "+s.ID, func() bool {
			lost, err := m.RemoveServer(ctx, raid.ServerID(s.ID), false)
			if err == nil && lost != 0 {
				t.Fatalf("%d members were lost with drained server %s", lost, s.ID)
			}
			return err == nil
		})
		_, err := c.Restart(s)
		must(t, err)
		until("the return of "+s.ID, func() bool { return server(s.ID).State == metaclient.ServerUp })
	}
	ld.more(1000)
	must(t, m.Rebalance(ctx, 2))
	until("rebalancing", func() bool {
		st, err := m.Status(ctx)
		must(t, err)
		return st.Rebalancing == nil
	})
	if sv := server(c.Servers[2].ID); sv.Chunks == 0 {
		t.Errorf("the server that came last still holds nothing: %+v", sv)
	}
	until("the last moves", func() bool { return whole().Pending == 0 })
	ld.more(1000)
	ld.flawless()
}
