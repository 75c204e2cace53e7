package e2e

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// slowly makes a rebuild of this suite's small volumes last for seconds, so
// that there is a middle of it.
const slowly = "8MiB"

// rebuildProgress is what a status says of a rebuild.
type rebuildProgress struct {
	RowsLeft  uint64 `json:"rows_left"`
	RowsTotal uint64 `json:"rows_total"`
	Members   []struct {
		Server  string
		Filling bool
	}
}

// awaitMiddle waits until a rebuild has given members some of their rows and
// has others to go, and tells how it stands.
func (c *cluster) awaitMiddle() rebuildProgress {
	c.t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		r := c.dmps("status", "--output", "json")
		var s struct {
			Volumes []struct {
				Report struct{ Rebuild *rebuildProgress }
			}
		}
		if err := json.Unmarshal([]byte(r.stdout), &s); err == nil && len(s.Volumes) == 1 {
			p := s.Volumes[0].Report.Rebuild
			if p != nil && p.RowsLeft > 0 && p.RowsLeft < p.RowsTotal && len(p.Members) > 0 {
				return *p
			}
		}
		if time.Since(begin) > rebuildLimit {
			c.t.Fatalf("no rebuild is under way after %v: %v", rebuildLimit, r)
		}
	}
}

// holder is a server that is none of those given.
func (c *cluster) holder(but ...*rig.Role) *rig.Role {
	c.t.Helper()
	for i := range c.Servers {
		if s := &c.Servers[i]; !slices.Contains(but, s) {
			return s
		}
	}
	c.t.Fatal("no server is left")
	return nil
}

// source is a server that is not being filled, and none of those given.
func (c *cluster) source(p rebuildProgress, but ...*rig.Role) *rig.Role {
	c.t.Helper()
	for _, m := range p.Members {
		but = append(but, role(c.t, c.Servers, m.Server))
	}
	return c.holder(but...)
}

// TestLossesInTheMiddleOfARebuild loses, one after the other and each in the middle of a
// rebuild, the leader of the metadata service, the server that is filled, one that it is
// filled from, and the client that drives it. Each time the rebuild goes on to
// its end, and nothing is lost. There is no load meanwhile: it would write the
// rows of so small a volume anew before they could be rebuilt.
func TestLossesInTheMiddleOfARebuild(t *testing.T) {
	c := start(t, small, threeMeta, func(d *rig.DevConfig) { d.Servers, d.Grace = 8, "2s" })
	ld := c.startLoad()
	if err := ld.Stop().Err(); err != nil {
		t.Fatal(err)
	}
	slow := func() {
		t.Helper()
		if r := c.dmps("rebuild", "swap0", "--rate", slowly); r.code != healthy && r.code != degraded {
			t.Fatalf("setting the rate: %v", r)
		}
	}
	whole := func(dead ...*rig.Role) {
		t.Helper()
		if r := c.dmps("rebuild", "swap0", "--rate", "0"); r.code != healthy && r.code != degraded {
			t.Fatalf("setting the rate: %v", r)
		}
		c.awaitStatus(healthy, rebuildLimit)
		for _, d := range dead {
			_, err := c.Restart(d)
			must(t, err)
		}
	}

	first := &c.Servers[0]
	slow()
	must(t, c.Kill(*first))
	before := c.awaitMiddle()
	must(t, c.Kill(c.leader()))
	after := c.awaitMiddle()
	t.Logf("the leader dies with %d of %d rows to go; then there are %d", before.RowsLeft, before.RowsTotal, after.RowsLeft)
	target := role(t, c.Servers, after.Members[0].Server)
	t.Logf("the target %s dies", target.ID)
	must(t, c.Kill(*target))
	c.awaitMiddle()
	ld.check(ld.conns[0])
	whole(first, target)

	slow()
	second := c.holder(first, target) // these came back empty
	must(t, c.Kill(*second))
	source := c.source(c.awaitMiddle(), first, target, second)
	t.Logf("the source %s dies", source.ID)
	must(t, c.Kill(*source))
	whole(second, source)
	ld.check(ld.conns[0])

	slow()
	must(t, c.Kill(*c.holder(first, target, second, source)))
	left := c.awaitMiddle()
	t.Logf("the client dies with %d of %d rows to go", left.RowsLeft, left.RowsTotal)
	must(t, c.Kill(c.Client))
	conn := c.reconnect()
	ld.check(conn)
	c.awaitStatus(healthy, rebuildLimit)
	ld.check(conn)
}
