package e2e

import (
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// schemes are the redundancies that must survive two failures.
var schemes = map[string]func(*rig.DevConfig){
	"rs":     func(*rig.DevConfig) {},
	"mirror": mirror3,
}

// losses is M of every scheme.
const losses = 2

func TestServersKilledUnderLoad(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			c := start(t, scheme, small)
			ld := c.startLoad()
			for _, s := range c.Servers[:losses] {
				must(t, c.Kill(s))
				ld.more(5000)
			}
			ld.flawless()
			c.allAlive(c.Servers[0].PID, c.Servers[1].PID)
			c.awaitStatus(degraded, noticeLimit)
		})
	}
}

func TestServersKilledAtOnceUnderLoad(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for _, s := range c.Servers[4:] {
		must(t, c.Kill(s))
	}
	ld.more(10000)
	ld.flawless()
}

// A frozen server keeps its sockets: nothing tells that it is gone but silence.
func TestServersFrozenUnderLoad(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			c := start(t, scheme, small)
			ld := c.startLoad()
			frozen := c.Servers[1 : 1+losses]
			for _, s := range frozen {
				must(t, c.Freeze(s))
				ld.more(5000)
			}
			c.awaitStatus(degraded, noticeLimit)
			for _, s := range frozen {
				must(t, c.Thaw(s))
				ld.more(5000)
			}
			ld.flawless()
			c.allAlive()
		})
	}
}

// One frozen server is no more than a hiccup: the others tell soon enough that
// it is not the network.
func TestOneServerFrozen(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			c := start(t, scheme, small)
			ld := c.startLoad()
			must(t, c.Freeze(c.Servers[3]))
			ld.more(5000)
			r := ld.Stop()
			t.Logf("load: %v", &r.Stats)
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			if r.Stats.Max() > maxHiccup {
				t.Errorf("a %s took %v, more than %v", r.Stats.MaxOp, r.Stats.Max(), maxHiccup)
			}
			ld.check(ld.conns[0])
		})
	}
}

// A server that freezes again and again never brings old data back.
func TestServerStutters(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for _, s := range c.Servers[:5] {
		must(t, c.Freeze(s))
		// Long enough that requests are given up, short enough that connections live.
		time.Sleep(300 * time.Millisecond)
		must(t, c.Thaw(s))
		ld.more(1000)
	}
	ld.flawless()
}

// A server that was killed comes back empty, at the same address, by the
// same name. It must not pass for the one that held data.
func TestServerComesBackEmpty(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for i := range 2 {
		s := &c.Servers[i]
		must(t, c.Kill(*s))
		ld.more(2000)
		if _, err := c.Restart(s); err != nil {
			t.Fatal(err)
		}
		ld.more(2000)
	}
	ld.flawless()
	if _, code := c.status(); code == lost {
		t.Error("two servers of 4+2 were restarted, and status says that data is lost")
	}
}

// One more than M: what is gone is EIO, the rest is served, nothing is wrong,
// nothing crashes. Servers that are merely silent are waited for; these come back
// empty, which says that what they held is gone.
func TestMoreThanMKilled(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			c := start(t, scheme, small)
			conn := c.dial()
			ld := c.startLoad()
			if err := ld.Stop().Err(); err != nil {
				t.Fatal(err)
			}
			var dead []int
			for i := range losses + 1 {
				s := &c.Servers[i]
				must(t, c.Kill(*s))
				dead = append(dead, s.PID)
			}
			for i := range losses + 1 {
				if _, err := c.Restart(&c.Servers[i]); err != nil {
					t.Fatal(err)
				}
			}
			r := ld.ledger.Check(conn)
			t.Logf("check: %v; %d blocks of %d are gone", &r.Stats, r.Failed, ld.ledger.Blocks())
			for _, v := range r.Violations[:min(5, len(r.Violations))] {
				t.Errorf("wrong data: %v", v)
			}
			for _, f := range r.Failures {
				if !isEIO(f.Err) {
					t.Fatalf("block %d: %v, want EIO", f.First, f.Err)
				}
			}
			// All groups have lost three of their members in the one case, and in the other
			// only those whose three copies were on just these servers.
			if name == "rs" && r.Failed == 0 {
				t.Error("half of the servers are gone, and nothing is lost?")
			}
			if r.Failed >= ld.ledger.Blocks()*9/10 {
				t.Error("pages on servers that live are not served")
			}
			if r.Stats.Max() > maxStall {
				t.Errorf("a %s took %v", r.Stats.MaxOp, r.Stats.Max())
			}
			c.allAlive(dead...)
			if r.Failed > 0 {
				c.awaitStatus(lost, noticeLimit)
			} else {
				c.awaitStatus(degraded, noticeLimit)
			}
			// The front end still serves newcomers.
			p := make([]byte, 4096)
			if _, err := c.dial().ReadAt(p, 0); err != nil && !isEIO(err) {
				t.Errorf("a new connection: %v", err)
			}
		})
	}
}
