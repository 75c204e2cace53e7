package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"dmps/chaos/badmem"
	"dmps/chaos/e2e/ledger"
	"dmps/client"
	"dmps/raid"
)

// TestMemoryDamaged: one server of six forgets everything, has slots of other rows, or
// has those of an earlier time, and does not know it. Then the client is started again.
// Every page is as it was answered all the time; the damage is noticed, counted and
// repaired, so that any two other servers may go afterwards.
func TestMemoryDamaged(t *testing.T) {
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	for _, kind := range []string{"zeros", "swapped slots", "old slots"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := startLean(t, raid.Geometry{K: 4, M: 2})
			const victim = 1
			s := c.cl.File().Servers[victim]
			c.singles()
			arena, err := badmem.Of(s.PID)
			able := func(err error) {
				t.Helper()
				if errors.Is(err, badmem.ErrUnable) && !required {
					t.Skip(err)
				}
				must(t, err)
			}
			able(err)
			switch kind {
			case "zeros":
				able(arena.Zero())
			case "swapped slots":
				able(arena.Swap(c.g, 40, c.rnd))
			case "old slots":
				saved, err := arena.Save()
				able(err)
				c.singles()
				able(arena.Put(saved))
			}
			c.restarted(kind, 0)
			c.awaitHealthy(kind) // a scrub leaves out what is being filled
			c.scrubbed()
			c.awaitHealthy(kind)
			r := c.report()
			t.Logf("bad slots by server: %v; %d rows were given", r.BadSlots, r.Counters["rebuilt_rows"])
			if r.BadSlots[raid.ServerID(s.ID)] == 0 || len(r.BadSlots) != 1 {
				t.Errorf("the damage was at %s; counted are %v", s.ID, r.BadSlots)
			}
			if r.Counters["rebuilt_rows"] == 0 {
				t.Error("nothing was repaired")
			}
			// What was repaired bears what it should.
			c.restarted(kind+", repaired, without server4+server5", 1<<3|1<<4)
			c.verdict()
		})
	}
}

// singles changes single pages, one after the other.
func (c *lean) singles() {
	c.t.Helper()
	for range 200 {
		kind := ledger.WriteBlock
		switch p := c.rnd.IntN(20); {
		case p < 2:
			kind = ledger.TrimBlock
		case p < 3:
			kind = ledger.WriteZeros
		}
		must(c.t, c.ledger.Change(c.conn, c.rnd.IntN(leanPages), kind))
	}
}

// restarted kills the client, and has a new one read everything beside servers that
// are out. All pages must be there, at once and when those are back.
func (c *lean) restarted(what string, out uint) {
	c.t.Helper()
	c.older, c.wrong = map[int]bool{}, map[int]bool{}
	if !c.newClient(out, leanAttach) {
		c.t.Fatalf("%s: no client serves", what)
	}
	refused := c.read(what)
	c.allBack()
	if refused += c.read(what + ", all back"); refused > 0 {
		c.t.Errorf("%s: %d pages are refused", what, refused)
	}
	c.nOlder += len(c.older)
	c.nWrong += len(c.wrong)
}

// verdict fails the test if any page was not what was answered.
func (c *lean) verdict() {
	c.t.Helper()
	if c.nOlder+c.nWrong > 0 {
		c.t.Errorf("%d pages are older than what was answered, and %d are otherwise wrong", c.nOlder, c.nWrong)
	}
}

// scrubbed has everything verified and repaired.
func (c *lean) scrubbed() {
	c.t.Helper()
	f := c.cl.File()
	run(c.t, "sh", "-c", `"$0" scrub lean --watch --rate 0 --meta "$1" || test $? = 2`, dmpsBin, f.MetaURLs[0])
}

// report is what the client says of itself.
func (c *lean) report() (r client.Report) {
	c.t.Helper()
	web := http.Client{Timeout: 5 * time.Second}
	defer web.CloseIdleConnections()
	res, err := web.Get(c.cl.File().Client.Admin + "/status")
	must(c.t, err)
	defer res.Body.Close()
	must(c.t, json.NewDecoder(res.Body).Decode(&struct{ Report *client.Report }{&r}))
	return r
}
