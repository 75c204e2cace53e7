package e2e

import (
	"encoding/json"
	"testing"

	"dmps/chaos/e2e/rig"
)

// leader asks the metadata service who leads it.
func (c *cluster) leader() rig.Role {
	c.t.Helper()
	r := c.dmps("status", "--output", "json")
	var s struct {
		Meta []struct {
			Name   string
			Leader bool
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		c.t.Fatalf("status: %v: %v", err, r)
	}
	for _, n := range s.Meta {
		if !n.Leader {
			continue
		}
		for _, m := range c.Meta {
			if m.ID == n.Name {
				return m
			}
		}
	}
	c.t.Fatalf("no leader among %+v in %v", c.Meta, r)
	return rig.Role{}
}

// role finds a role by its id, for a change of its pid.
func role(t *testing.T, roles []rig.Role, id string) *rig.Role {
	t.Helper()
	for i := range roles {
		if roles[i].ID == id {
			return &roles[i]
		}
	}
	t.Fatalf("no role %s", id)
	return nil
}

// The leader is killed: another one takes over, nobody on the page path notices.
func TestMetaLeaderKilled(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()
	first := c.leader()
	must(t, c.Kill(first))
	ld.more(2000)
	c.awaitStatus(healthy, noticeLimit)
	if second := c.leader(); second.ID == first.ID {
		t.Errorf("%s is dead and still leads", first.ID)
	}
	if _, err := c.Restart(role(t, c.Meta, first.ID)); err != nil {
		t.Fatal(err)
	}
	ld.more(2000)
	ld.flawless()
}

// The leader is frozen, thawed, and has to learn that it leads no more.
func TestMetaLeaderFrozen(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()
	first := c.leader()
	must(t, c.Freeze(first))
	c.awaitStatus(healthy, noticeLimit)
	ld.more(2000)
	must(t, c.Thaw(first))
	ld.more(2000)
	c.awaitStatus(healthy, noticeLimit)
	ld.flawless()
}
