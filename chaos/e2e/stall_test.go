package e2e

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"dmps/client"
)

// A memory server that is frozen for less than the grace and comes back with what
// it holds is in sync again, and is given only the rows that it missed.
func TestFrozenServerIsGivenWhatItMissed(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	must(t, c.Freeze(c.Servers[0]))
	ld.more(500)
	must(t, c.Thaw(c.Servers[0]))
	missed := c.liveReport()
	c.awaitStatus(healthy, rebuildLimit)
	ld.flawless()
	r := c.liveReport()
	wrote, gave := r.Counters["degraded_rows_written"], r.Counters["rebuilt_rows"]
	t.Logf("%d rows were written degraded (%d had when it came back), %d given, %d KiB pulled; %d pages are stored", wrote, missed.Counters["degraded_rows_written"], gave, r.Counters["rebuild_pulled_bytes"]>>10, r.MappedPages)
	if r.Counters["sessions_lost"] == 0 || wrote == 0 {
		t.Error("the frozen server was not noticed: the test proves nothing")
	}
	if gave > wrote {
		t.Errorf("%d rows were given to it, and only %d were written without it", gave, wrote)
	}
	if most := gave * 4 * (4096 + 512); r.Counters["rebuild_pulled_bytes"] > most {
		t.Errorf("%d bytes were pulled for %d rows", r.Counters["rebuild_pulled_bytes"], gave)
	}
}

// liveReport is what the client says of itself.
func (c *cluster) liveReport() (r client.Report) {
	c.t.Helper()
	res, err := http.Get(c.Client.Admin + "/status")
	must(c.t, err)
	defer res.Body.Close()
	s := struct{ Report *client.Report }{&r}
	must(c.t, json.NewDecoder(res.Body).Decode(&s))
	http.DefaultClient.CloseIdleConnections()
	return r
}

// A client that itself does not run for a while, as on a machine that is short
// of memory, blames nobody for what it did not hear: no server is suspected
// afterwards, no request fails, nothing is written degraded.
func TestStalledClientSuspectsNobody(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for _, d := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second} {
		must(t, c.Freeze(c.Client))
		time.Sleep(d) // what is tried
		must(t, c.Thaw(c.Client))
		ld.more(2000)
		r := c.liveReport()
		if n := r.Counters["sessions_lost"]; n != 0 || r.Counters["degraded_rows_written"] != 0 || len(r.Suspect) != 0 || r.DegradedRows != 0 {
			t.Errorf("after the client stood still for %v: %d sessions were ended, suspect: %v, %d rows were written degraded", d, n, r.Suspect, r.Counters["degraded_rows_written"])
		}
	}
	r := ld.Stop()
	if err := r.Err(); err != nil {
		t.Errorf("during the load: %v", err)
	}
	ld.check(ld.conns[0])
	if _, code := c.status(); code != healthy {
		t.Errorf("status exits with %d", code)
	}
}
