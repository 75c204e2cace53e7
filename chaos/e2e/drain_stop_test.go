package e2e

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// drainer starts a server again so that it drains itself when it is told to end, and
// has it hold members of all groups: with one server more than members, one that is
// drained leaves no other place.
func drainer(t *testing.T, c *cluster, m *metaclient.Client, patience string) (r *rig.Role, p *rig.Process) {
	t.Helper()
	r = &c.Servers[0]
	ctx := testCtx(t)
	was := lifeOf(t, m, r.ID)
	must(t, c.Kill(*r))
	r.Argv = append(r.Argv, "--drain-on-stop", patience)
	p, err := c.Restart(r)
	must(t, err)
	for lifeOf(t, m, r.ID) == was {
		time.Sleep(20 * time.Millisecond)
	}
	if len(c.Servers) > 6 {
		must(t, m.DrainServer(ctx, raid.ServerID(c.Servers[1].ID)))
	}
	settled := func() bool {
		st, err := m.Status(ctx)
		must(t, err)
		v := st.Volumes[0]
		held := false
		for _, s := range st.Servers {
			if s.ID == raid.ServerID(r.ID) {
				held = s.Chunks > 0
			}
			if s.Draining && s.Chunks > 0 {
				return false
			}
		}
		return held && v.State == "healthy" && v.DegradedGroups == 0 && v.Pending == 0
	}
	for deadline := time.Now().Add(rebuildLimit); !settled(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			st, _ := m.Status(ctx)
			t.Fatalf("%s is not filled: %+v", r.ID, st)
		}
	}
	must(t, m.UndrainServer(ctx, raid.ServerID(c.Servers[1].ID)))
	return r, p
}

// lifeOf is the incarnation of a server as the metadata knows it.
func lifeOf(t *testing.T, m *metaclient.Client, id string) raid.Incarnation {
	t.Helper()
	all, err := m.Servers(t.Context())
	must(t, err)
	return all[slices.IndexFunc(all, func(s metaclient.Server) bool { return s.ID == raid.ServerID(id) })].Incarnation
}

func ended(t *testing.T, p *rig.Process, limit time.Duration) (code int, log string) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(limit):
		t.Fatalf("%s lives: %s", p.Name, rig.Tail(p.Log, 20))
	}
	b, err := os.ReadFile(p.Log)
	must(t, err)
	return p.ExitCode(), string(b)
}

// A server that is told to end moves what it holds first: no member is lost with it. Its
// next life is used like any other.
func TestDrainOnStop(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers, d.Grace = 7, "3s" })
	m, err := metaclient.New([]string{c.Meta[0].API})
	must(t, err)
	defer m.Close()
	r, p := drainer(t, c, m, "1m")
	ld := c.startLoad()
	ld.more(1000)
	ctx := testCtx(t)
	before, err := m.Events(ctx, 0, 0)
	must(t, err)
	must(t, p.Signal(syscall.SIGTERM))
	code, log := ended(t, p, time.Minute)
	if code != 0 || !strings.Contains(log, "drained: this server holds nothing") {
		t.Fatalf("exit code %d:\n%s", code, log)
	}
	was := lifeOf(t, m, r.ID)
	_, err = c.Restart(r)
	must(t, err)
	for {
		all, err := m.Servers(ctx)
		must(t, err)
		if s := all[0]; s.ID == raid.ServerID(r.ID) && s.State == metaclient.ServerUp {
			if s.Draining {
				t.Error("its next life is marked as drained")
			}
			if s.Incarnation != was {
				break
			}
		}
		time.Sleep(30 * time.Millisecond)
	}
	// It came back empty, and nothing was lost with what it was.
	after, err := m.Events(ctx, before.Last, 0)
	must(t, err)
	for _, e := range after.Events {
		if e.Kind == "members-lost" {
			t.Errorf("an orderly end: %s", e.Text)
		}
	}
	ld.more(1000)
	ld.flawless()
}

// What cannot be moved: it ends when its patience is over, or at a second signal, and
// says what is lost.
func TestDrainOnStopWithoutRoom(t *testing.T) {
	for name, c := range map[string]struct {
		patience string
		again    bool
		says     string
	}{
		"patience":      {"4s", false, "the patience of 4s is over"},
		"second signal": {"1h", true, "a second signal came"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := start(t, small, func(d *rig.DevConfig) { d.Grace = "3s" })
			m, err := metaclient.New([]string{cl.Meta[0].API})
			must(t, err)
			defer m.Close()
			_, p := drainer(t, cl, m, c.patience)
			must(t, p.Signal(syscall.SIGTERM))
			if c.again {
				for !strings.Contains(rig.Tail(p.Log, 20), "the draining does not go on") {
					time.Sleep(10 * time.Millisecond)
				}
				must(t, p.Signal(syscall.SIGTERM))
			}
			code, log := ended(t, p, commandLimit)
			if code != 1 || !strings.Contains(log, c.says) || !strings.Contains(log, "which are lost") {
				t.Errorf("exit code %d:\n%s", code, log)
			}
		})
	}
}
