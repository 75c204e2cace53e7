package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// lease is what status says of who has the volume.
type lease struct {
	Holder string
	Care   bool
}

// lease gives the volume's, or nil.
func (c *cluster) lease() *lease {
	c.t.Helper()
	r := c.dmps("status", "--output", "json")
	var s struct {
		Volumes []struct{ Lease *lease }
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || len(s.Volumes) != 1 {
		c.t.Fatalf("status --output json: %v\n%v", err, r)
	}
	return s.Volumes[0].Lease
}

// awaitCare waits until a memory server has a care lease, and gives that server.
func (c *cluster) awaitCare(limit time.Duration) *rig.Role {
	c.t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if l := c.lease(); l != nil && l.Care {
			id, ok := strings.CutPrefix(l.Holder, "caretaker@")
			for i := range c.Servers {
				if ok && c.Servers[i].ID == id {
					c.t.Logf("%s cares for the volume after %v", id, time.Since(begin).Round(time.Millisecond))
					return &c.Servers[i]
				}
			}
			c.t.Fatalf("a care lease is held by %q", l.Holder)
		}
		if time.Since(begin) > limit {
			c.t.Fatalf("nobody cares for the volume after %v: %+v", limit, c.lease())
		}
	}
}

// awaitNobody waits until nobody has the volume: who cared for it is done.
func (c *cluster) awaitNobody() {
	c.t.Helper()
	for begin := time.Now(); c.lease() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > noticeLimit {
			c.t.Fatalf("the volume is whole, and after %v the lease is %+v", noticeLimit, c.lease())
		}
	}
}

// detach ends the client in order.
func (c *cluster) detach() {
	c.t.Helper()
	must(c.t, syscall.Kill(c.Client.PID, syscall.SIGTERM))
	for begin := time.Now(); rig.Alive(c.Client.PID); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > commandLimit {
			c.t.Fatal("the client does not end")
		}
	}
	if l := c.lease(); l != nil {
		c.t.Fatalf("the client has ended, and %+v has the volume", l)
	}
}

// killed kills servers, and starts them again, empty.
func (c *cluster) killed(servers ...*rig.Role) (restart func()) {
	c.t.Helper()
	for _, s := range servers {
		must(c.t, c.Kill(*s))
	}
	return func() {
		for _, s := range servers {
			_, err := c.Restart(s)
			must(c.t, err)
		}
	}
}

// A volume that nobody has attached loses two servers, is rebuilt by the others,
// loses the caretaker in the middle of the next rebuild, is rebuilt again, and
// is attached in the middle of a third. Nothing is lost.
func TestDetachedVolumeIsRebuilt(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers, d.Grace = 8, "3s" })
	ld := c.startLoad()
	if err := ld.Stop().Err(); err != nil {
		t.Fatalf("before anything was broken: %v", err)
	}
	c.detach()

	restart := c.killed(&c.Servers[0], &c.Servers[1])
	c.awaitStatus(degraded, noticeLimit)
	c.awaitCare(rebuildLimit)
	if r := c.dmps("volume", "list"); !strings.Contains(r.stdout, "rebuilt by caretaker@") {
		t.Logf("volume list while it is rebuilt, or after: %v", r)
	}
	c.awaitStatus(healthy, rebuildLimit)
	c.awaitNobody()
	restart()

	restart = c.killed(&c.Servers[2])
	c.awaitStatus(degraded, noticeLimit)
	taker := c.awaitCare(rebuildLimit)
	again := c.killed(taker)
	c.awaitStatus(degraded, noticeLimit) // also when it was just done
	c.awaitStatus(healthy, rebuildLimit)
	c.awaitNobody()
	restart()
	again()
	var left []*rig.Role
	for i := 3; i < len(c.Servers) && len(left) < 2; i++ {
		if s := &c.Servers[i]; s.ID != taker.ID {
			left = append(left, s)
		}
	}

	c.killed(left...)
	c.awaitStatus(degraded, noticeLimit)
	c.awaitCare(rebuildLimit)
	begin := time.Now()
	conn := c.reconnect()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("attaching a volume under care took %v", took)
	}
	if l := c.lease(); l == nil || l.Care {
		t.Errorf("the client serves, and the lease is %+v", l)
	}
	ld.check(conn)
	c.awaitStatus(healthy, rebuildLimit)
	ld.check(conn)
	if r := c.dmps("events", "--output", "json"); r.code == 0 && !strings.Contains(r.stdout, "care-ended") {
		t.Errorf("the events tell of no care that ended:\n%s", r.stdout)
	}
}

// Deleting a volume needs no force while only a caretaker has it.
func TestDeleteVolumeUnderCare(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers, d.Grace = 8, "3s" })
	if err := c.startLoad().Stop().Err(); err != nil {
		t.Fatal(err)
	}
	c.detach()
	c.killed(&c.Servers[0])
	c.awaitCare(rebuildLimit)
	if r := c.dmps("volume", "delete", "swap0", "--yes"); r.code != 0 {
		t.Fatalf("deleting a volume under care: %v", r)
	}
}
