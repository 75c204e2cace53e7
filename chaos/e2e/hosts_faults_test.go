package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dmps/chaos/e2e/ledger"
	"dmps/chaos/netns"
	"dmps/raid"
)

// Of the test of the network's faults.
const (
	quietFor  = 3 * time.Second // how long each fault lasts
	holeFor   = 12 * time.Second
	refuseFor = 5 * time.Second
	// holeCost is how many times as much a server may cost that large packets do not
	// reach as one that is cut off.
	holeCost = 4
	// holeBlames is how often a server may be given up in holeFor: some times until that
	// is known, and then seldom.
	holeBlames = 12
	// hostPatience is what requests may wait, and patienceLate how much later they may
	// end: a client that is starved, and one more redial.
	hostPatience = 6 * time.Second
	patienceLate = 2500 * time.Millisecond
)

// TestNetworkFaults: what a network does to servers costs time, and no request while
// the patience lasts.
func TestNetworkFaults(t *testing.T) {
	c := startHosts(t, "faults", raid.Geometry{K: 4, M: 2}, 7)
	client := c.net.Hosts("c1")
	p, conn := c.attach("c1", "--patience", "60s")
	book := ledger.New(512, 1)
	must(t, book.Fill(conn))
	load := book.Start(t.Context(), 4, conn)
	t.Cleanup(func() { conn.Close(); load.Stop() })
	// during gives the requests a second while something is the matter.
	during := func(what string, d time.Duration, faults ...netns.Fault) float64 {
		t.Helper()
		must(t, c.net.Set(faults...))
		before, begin := load.Completed(), time.Now()
		time.Sleep(d)
		rate := float64(load.Completed()-before) / time.Since(begin).Seconds()
		must(t, c.net.Set())
		t.Logf("%s: %.0f requests a second", what, rate)
		return rate
	}
	one, four := c.net.Hosts("s1"), c.net.Hosts("s1", "s2", "s3", "s4")
	during("quiet", quietFor)
	dead := during("a server cut off", quietFor, netns.Cut(one, c.net.Others(one))...)
	c.awaitHealthy()
	lost := c.counters()["sessions_lost"]
	hole := during("large packets to and from a server are lost", holeFor, netns.DropLarge(one, client), netns.DropLarge(client, one))
	c.awaitHealthy()
	lost = c.counters()["sessions_lost"] - lost
	t.Logf("it was given up %d times in %v", lost, holeFor)
	if hole*holeCost < dead {
		t.Errorf("a server that large packets do not reach costs more than %d times what one costs that is cut off", holeCost)
	}
	if lost > holeBlames {
		t.Errorf("a server that large packets do not reach was given up %d times in %v, more than %d", lost, holeFor, holeBlames)
	}
	frozen, err := netns.Freeze(client, c.net.Hosts("s2", "s3"))
	must(t, err)
	during("the connections of two servers are dead", quietFor, frozen)
	c.awaitHealthy()
	during("one server's answers are lost", quietFor, netns.Drop(one, client))
	c.awaitHealthy()
	during("one server at 100 KiB a second", quietFor, netns.Throttle(one, client, 100), netns.Throttle(client, one, 100))
	c.awaitHealthy()
	during("four servers refuse connections", refuseFor, netns.Refuse(client, four))
	for want, begin := load.Completed()+1000, time.Now(); load.Completed() < want; time.Sleep(time.Millisecond) {
		if time.Since(begin) > commandLimit {
			t.Fatal("the load stands still")
		}
	}
	r := load.Stop()
	t.Logf("load: %v", &r.Stats)
	if err := r.Err(); err != nil {
		t.Errorf("nothing was lost, and the patience is 60s: %v", err)
	}
	if r := book.Check(conn); r.Err() != nil {
		t.Errorf("after the load: %v", r.Err())
	}
	must(t, p.Stop())
	c.patience(book, client)
}

// patience: requests of a client that is cut off from all servers end with EIO after
// its patience, and not much later.
func (c *hosts) patience(book *ledger.Ledger, client []*netns.Host) {
	t := c.t
	t.Helper()
	_, conn := c.attach("c1", "--patience", hostPatience.String())
	var servers []*netns.Host
	for i := range 7 {
		servers = append(servers, c.net.Hosts(fmt.Sprint("s", i+1))...)
	}
	must(t, c.net.Set(netns.Cut(client, servers)...))
	begin := time.Now()
	var wg sync.WaitGroup
	for what, ask := range map[string]func() error{
		"a write": func() error { return book.Change(conn, 0, ledger.WriteBlock) },
		"a read": func() error {
			wrong, _, err := book.Read(conn, 1)
			return errors.Join(wrong, err)
		},
	} {
		wg.Go(func() {
			err := ask()
			took := time.Since(begin)
			t.Logf("no server is reached: %s ends after %v: %v", what, took.Round(10*time.Millisecond), err)
			if !isEIO(err) {
				t.Errorf("%s ends with %v, not EIO", what, err)
			}
			if took < hostPatience-100*time.Millisecond || took > hostPatience+patienceLate {
				t.Errorf("%s ends after %v, with a patience of %v", what, took, hostPatience)
			}
		})
	}
	wg.Wait()
	must(t, c.net.Set())
	c.awaitHealthy()
	if r := book.Check(conn); r.Err() != nil {
		t.Errorf("the network is whole: %v", r.Err())
	}
}
