package e2e

import (
	"os"
	"slices"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// Very many servers as processes: some are killed at once, so that no group loses more
// than it survives. The volume heals by itself, and every byte is right. What each
// process takes while nothing is asked of it is in the log. DMPS_E2E_MANY=1 takes 64
// servers and kills four.
func TestManyServers(t *testing.T) {
	servers, kills, rest := 24, 2, 2*time.Second
	if os.Getenv("DMPS_E2E_MANY") != "" {
		servers, kills, rest = 64, 4, 20*time.Second
	}
	c := start(t, func(d *rig.DevConfig) {
		d.Servers, d.Meta, d.ServerMemory, d.Size, d.Grace = servers, 3, "48MiB", "256MiB", "3s"
	})
	m, err := metaclient.New([]string{c.Meta[0].API, c.Meta[1].API, c.Meta[2].API})
	must(t, err)
	defer m.Close()
	ctx := testCtx(t)
	ld := c.startLoad()
	if r := ld.Stop(); r.Err() != nil {
		t.Fatal(r.Err())
	}
	idleUsage(t, c, rest)
	st, err := m.Status(ctx)
	must(t, err)
	l, err := m.Layout(ctx, st.Volumes[0].ID, 0)
	must(t, err)
	doomed := bearable(l, c.Servers, kills)
	if len(doomed) < kills {
		t.Fatalf("of %d servers only %v can be lost at once", servers, doomed)
	}
	gone := time.Now()
	var pids []int
	for _, r := range doomed {
		must(t, c.Kill(r))
		pids = append(pids, r.PID)
	}
	c.awaitStatus(degraded, noticeLimit)
	ld.check(ld.conns[0])
	c.awaitStatus(healthy, time.Minute)
	t.Logf("%d of %d servers killed: healthy %v later", kills, servers, time.Since(gone).Round(time.Millisecond))
	ld.check(ld.conns[1])
	c.allAlive(pids...)
	l, err = m.Layout(ctx, l.Volume, 0)
	must(t, err)
	for _, g := range l.Groups {
		for _, mem := range g.Members {
			if mem.State != raid.MemberInSync || slices.ContainsFunc(doomed, func(r rig.Role) bool { return raid.ServerID(r.ID) == mem.Server }) {
				t.Errorf("group %d: %+v", g.ID, mem)
			}
		}
	}
}

// bearable chooses up to n servers with members, of which no group has more than it
// may lose. Those that hold most come first.
func bearable(l *raid.Layout, all []rig.Role, n int) (chosen []rig.Role) {
	holds := func(g raid.Group, id string) bool {
		return slices.ContainsFunc(g.Members, func(m raid.Member) bool { return string(m.Server) == id })
	}
	count := func(id string) (k int) {
		for _, g := range l.Groups {
			if holds(g, id) {
				k++
			}
		}
		return k
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b rig.Role) int { return count(b.ID) - count(a.ID) })
	for _, r := range all {
		fits := count(r.ID) > 0
		for _, g := range l.Groups {
			lost := 0
			for _, o := range append(slices.Clone(chosen), r) {
				if holds(g, o.ID) {
					lost++
				}
			}
			fits = fits && lost <= l.Geometry.M
		}
		if fits && len(chosen) < n {
			chosen = append(chosen, r)
		}
	}
	return chosen
}

// idleUsage logs what share of a processor each role takes while nothing is asked.
func idleUsage(t *testing.T, c *cluster, rest time.Duration) {
	t.Helper()
	use := func() map[string]time.Duration {
		u := make(map[string]time.Duration)
		for _, r := range c.Roles() {
			of, err := rig.UsageOf(r.PID)
			must(t, err)
			u[r.ID] = of.CPU
		}
		return u
	}
	before, begin := use(), time.Now()
	time.Sleep(rest) // what is measured is a time without work
	after, took := use(), time.Since(begin)
	for _, kind := range []struct {
		name  string
		roles []rig.Role
	}{{"a memory server", c.Servers}, {"a metadata node", c.Meta}, {"the client", []rig.Role{c.Client}}} {
		var sum, most float64
		for _, r := range kind.roles {
			share := 100 * (after[r.ID] - before[r.ID]).Seconds() / took.Seconds()
			sum, most = sum+share, max(most, share)
		}
		t.Logf("idle for %v: %s takes %.2f %% of a processor, %.2f %% at most", took.Round(time.Millisecond), kind.name, sum/float64(len(kind.roles)), most)
	}
}
