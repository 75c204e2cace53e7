package e2e

import (
	"bytes"
	"testing"
	"time"

	"dmps/chaos/e2e/ledger"
	"dmps/chaos/e2e/rig"
	"dmps/internal/nbdclient"
)

// reconnect starts the killed client again by its argv and waits until it serves.
func (c *cluster) reconnect() *nbdclient.Conn {
	c.t.Helper()
	begin := time.Now()
	p, err := c.Restart(&c.Client)
	if err != nil {
		c.t.Fatal(err)
	}
	addr, err := nbdclient.ParseURI(c.NBD)
	must(c.t, err)
	var conn *nbdclient.Conn
	ctx := testCtx(c.t)
	if err := p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, addr)
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	bound(c.t, conn)
	c.t.Logf("the client serves again after %v", time.Since(begin).Round(time.Millisecond))
	return conn
}

// The client is killed in the middle of a load. Its map was in its memory
// only: a new one finds every answered write again, with the servers that are left.
func TestClientKilledAndStartedAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		scheme func(*rig.DevConfig)
		before int // servers killed before the client is
		after  int // servers killed before the new client starts
	}{
		"rs":                    {schemes["rs"], 0, 0},
		"rs, degraded":          {schemes["rs"], 1, 0},
		"rs, two servers after": {schemes["rs"], 0, 2},
		"mirror, degraded":      {schemes["mirror"], 1, 1},
		"none":                  {func(c *rig.DevConfig) { c.Redundancy = "none" }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, tc.scheme, small)
			ld := c.startLoad()
			for _, s := range c.Servers[:tc.before] {
				must(t, c.Kill(s))
				ld.more(2000)
			}
			must(t, c.Kill(c.Client))
			r := ld.Stop()
			if len(r.Violations) > 0 {
				t.Errorf("wrong data before the end: %v", r.Err())
			}
			for _, s := range c.Servers[tc.before : tc.before+tc.after] {
				must(t, c.Kill(s))
			}
			conn := c.reconnect()
			ld.check(conn)
			// And it works on: new data over old.
			again := ld.ledger.Start(t.Context(), 8, conn)
			for begin := time.Now(); again.Completed() < 3000 && time.Since(begin) < commandLimit; {
				time.Sleep(time.Millisecond)
			}
			if err := again.Stop().Err(); err != nil {
				t.Errorf("after the restart: %v", err)
			}
			ld.check(conn)
		})
	}
}

// The client is killed again and again in the middle of a load, twice with all
// servers and twice with M of them dead: every answered write is there each time.
func TestClientKilledAgainAndAgain(t *testing.T) {
	c := start(t, schemes["rs"], small)
	ld := c.startLoad()
	running := ld.Load
	for round := range 4 {
		if round == 2 {
			for _, s := range c.Servers[:2] {
				must(t, c.Kill(s))
			}
			for begin, want := time.Now(), running.Completed()+2000; running.Completed() < want && time.Since(begin) < commandLimit; {
				time.Sleep(time.Millisecond)
			}
		}
		must(t, c.Kill(c.Client))
		if r := running.Stop(); len(r.Violations) > 0 {
			t.Errorf("round %d: wrong data before the end: %v", round, r.Err())
		}
		begin := time.Now()
		conn := c.reconnect()
		if _, err := conn.ReadAt(make([]byte, ledger.BlockSize), 0); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		t.Logf("round %d: from the start to the first answered request: %v", round, time.Since(begin).Round(time.Millisecond))
		ld.check(conn)
		running = ld.ledger.Start(t.Context(), 16, conn)
		t.Cleanup(func() { conn.Close(); running.Stop() })
		for begin := time.Now(); running.Completed() < 3000 && time.Since(begin) < commandLimit; {
			time.Sleep(time.Millisecond)
		}
	}
	if err := running.Stop().Err(); err != nil {
		t.Errorf("after the last restart: %v", err)
	}
}

// A client that was frozen while another took its volume over must not write.
func TestTakeover(t *testing.T) {
	c := start(t, small)
	old := c.dial()
	page := randomPage(1)
	if _, err := old.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	must(t, c.Freeze(c.Client))
	sock := t.TempDir() + "/s"
	p, err := rig.Start(rig.Spec{
		Name: "second client", Log: t.TempDir() + "/log", Env: []string{"DMPS_META=" + c.MetaURLs()},
		Argv: []string{dmpsBin, "attach", "swap0", "--takeover", "--allow-swappable", "--nbd", "unix:" + sock},
	})
	must(t, err)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("second client:\n%s", rig.Tail(p.Log, 25))
		}
	})
	ctx := testCtx(t)
	var conn *nbdclient.Conn
	must(t, p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, nbdclient.Addr{Network: "unix", Address: sock})
		return err
	}))
	bound(t, conn)
	got := make([]byte, len(page))
	if _, err := conn.ReadAt(got, 0); err != nil || !bytes.Equal(got, page) {
		t.Fatalf("the new client does not find the old one's write: %v", err)
	}
	newer := randomPage(2)
	if _, err := conn.WriteAt(newer, 0); err != nil {
		t.Fatal(err)
	}
	must(t, c.Thaw(c.Client))
	// The old client, back to life, may fail or end; it must not answer yes.
	if _, err := old.WriteAt(randomPage(3), 0); err == nil {
		t.Error("the old client answered a write after it had been replaced")
	}
	if _, err := conn.ReadAt(got, 0); err != nil || !bytes.Equal(got, newer) {
		t.Errorf("the new client's page was overwritten (%v)", err)
	}
}
