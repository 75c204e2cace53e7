package e2e

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/chaos/e2e/ledger"
	"dmps/chaos/e2e/rig"
	"dmps/internal/nbdclient"
)

// What a page reads as.
type found byte

const (
	right  found = iota // what was answered last
	absent              // older, or zeros
	gone                // EIO
)

// readPages reads every page by itself.
func readPages(t *testing.T, book *ledger.Ledger, conn *nbdclient.Conn) (pages []found, count [gone + 1]int) {
	t.Helper()
	pages = make([]found, book.Blocks())
	var wg sync.WaitGroup
	const workers = 32
	for w := range workers {
		wg.Go(func() {
			for b := w; b < len(pages); b += workers {
				wrong, _, err := book.Read(conn, b)
				switch {
				case err != nil && !isEIO(err):
					t.Errorf("page %d: %v, want EIO", b, err)
					return
				case err != nil:
					pages[b] = gone
				case wrong != nil:
					pages[b] = absent
				}
			}
		})
	}
	wg.Wait()
	for _, f := range pages {
		count[f]++
	}
	return pages, count
}

// anew kills servers at once and starts them again, empty, and waits until their members
// are replaced.
func (c *cluster) anew(servers []rig.Role) {
	c.t.Helper()
	for _, s := range servers {
		must(c.t, c.Kill(s))
	}
	for i := range servers {
		_, err := c.Restart(&servers[i])
		must(c.t, err)
	}
	c.awaitVolume("the lost members are replaced", func(v volumeStatus) bool {
		return v.StuckMembers == 0 && v.RebuildingMembers > 0
	})
}

const accept = "--accept-data-loss"

// refuses starts the killed client by its argv, which must say why it does not serve.
func (c *cluster) refuses(words ...string) {
	c.t.Helper()
	r := c.dmps(c.Client.Argv[1:]...) // its log is longer than other commands' errors
	if r.code == 0 {
		c.t.Errorf("not refused: %v", r)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			c.t.Errorf("the error does not mention %q: %v", w, r)
		}
	}
}

// Three of just six servers lose what they held. A client that is started afterwards
// refuses, and serves what is left when it is told to: every page that was readable is, also
// those that were written since, however few members know of them. What is gone is an
// error, or counts as unknown. The volume is failed, with both numbers, until pages are
// written anew and the loss of the unknown ones is accepted.
func TestAcceptDataLoss(t *testing.T) {
	for name, tc := range map[string]struct {
		scheme func(*rig.DevConfig)
		live   bool // the client lives while the servers are lost
	}{
		"rs": {schemes["rs"], true}, "rs, detached": {schemes["rs"], false},
		"mirror of two": {func(d *rig.DevConfig) { d.Redundancy, d.Servers, d.ServerMemory = "mirror:2", 3, "384MiB" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, tc.scheme, small)
			conn := c.dial()
			seed := rand.Uint64()
			t.Logf("seed of the ledger: %#x", seed)
			book := ledger.New(int(conn.Size()/ledger.BlockSize), seed)
			must(t, book.Fill(conn))
			var before []found
			if lose := c.Servers[:(len(c.Servers)+1)/2]; tc.live {
				c.anew(lose)
				before, _ = readPages(t, book, conn)
				rnd := rand.New(rand.NewPCG(seed, 1))
				for range 200 { // single pages: few members know of each
					b := rnd.IntN(book.Blocks())
					if err := book.Change(conn, b, ledger.Single(rnd.IntN(int(ledger.TrimBlock)+1))); err != nil {
						t.Fatalf("page %d, after the loss: %v", b, err)
					}
					before[b] = right
				}
				must(t, c.Kill(c.Client))
			} else {
				must(t, c.Kill(c.Client))
				c.anew(lose)
			}
			c.refuses(accept)
			c.Client.Argv = append(c.Client.Argv, accept, "--yes")
			conn = c.reconnect()
			pages, n := readPages(t, book, conn)
			t.Logf("%d pages are right, %d zeros or older, %d errors", n[right], n[absent], n[gone])
			for b, was := range before {
				if was == right && pages[b] != right {
					t.Errorf("page %d could be read before the client was started again; now: %d", b, pages[b])
				}
			}
			if n[right] == 0 || n[absent]+n[gone] == 0 {
				t.Errorf("half of the servers are empty: %v", n)
			}
			c.awaitVolume("failed, with both numbers", func(v volumeStatus) bool {
				return v.State == "failed" && v.UnknownPages >= uint64(n[absent]) && v.UnknownPages > 0 && v.Report != nil && v.Report.LostPages == uint64(n[gone])
			})
			// Nothing more is lost when it happens again.
			must(t, c.Kill(c.Client))
			conn = c.reconnect()
			if again, _ := readPages(t, book, conn); !slices.Equal(again, pages) {
				t.Error("another client finds other pages")
			}
			must(t, book.Fill(conn))
			c.awaitVolume("nothing is lost any more, but what is unknown", func(v volumeStatus) bool {
				return v.State == "failed" && v.UnknownPages > 0 && v.Report != nil && v.Report.LostPages == 0 && v.RebuildingMembers == 0
			})
			c.works("volume", "accept-loss", c.Config.Volume, "--yes")
			if s, code := c.status(); code == lost {
				t.Errorf("the loss is accepted, and the first status fails for it: %+v", s)
			}
			c.awaitStatus(healthy, noticeLimit)
			must(t, c.Kill(c.Client))
			c.Client.Argv = c.Client.Argv[:len(c.Client.Argv)-2]
			conn = c.reconnect()
			if err := book.Check(conn).Err(); err != nil {
				t.Errorf("after everything was written anew: %v", err)
			}
		})
	}
}

// Everything loses its power at once. The metadata says what is gone, attach how to go
// on; and who goes on with the same volume gets one that says that all is unknown.
func TestPowerCut(t *testing.T) {
	c := start(t, small)
	conn := c.dial()
	book := ledger.New(int(conn.Size()/ledger.BlockSize), 1)
	must(t, book.Fill(conn))
	must(t, c.Kill(c.Client))
	for _, r := range slices.Concat(c.Servers, c.Meta) {
		must(t, c.Kill(r))
	}
	c.startMeta(c.allMeta()...)
	for i := range c.Servers {
		_, err := c.Restart(&c.Servers[i])
		must(t, err)
	}
	c.awaitVolume("nothing is left", func(v volumeStatus) bool {
		return v.State == "failed" && v.EmptyGroups == v.Groups && v.StuckMembers == 0
	})
	if r := c.dmps("status"); r.code != lost {
		t.Errorf("status: %v", r)
	}
	c.refuses("Nothing is left", "volume delete", "volume create", accept)
	c.Client.Argv = append(c.Client.Argv, accept, "--yes")
	conn = c.reconnect()
	if _, n := readPages(t, book, conn); n[absent] != book.Blocks() {
		t.Errorf("of what is gone: %v", n)
	}
	c.awaitVolume("all is unknown", func(v volumeStatus) bool {
		return v.State == "failed" && v.UnknownPages == uint64(book.Blocks())
	})
	must(t, book.Fill(conn))
	c.works("volume", "accept-loss", c.Config.Volume, "--yes")
	c.awaitStatus(healthy, noticeLimit)
	if err := book.Check(conn).Err(); err != nil {
		t.Error(err)
	}
}

// While more than M servers are dead reads end with EIO, each within its time, however
// many one connection sends at once; the connection stays. What is written meanwhile is
// answered when the servers are back, empty, or fails.
func TestReadsEndWhileServersAreDead(t *testing.T) {
	c := start(t, small)
	conn := c.dial()
	book := ledger.New(int(conn.Size()/ledger.BlockSize), rand.Uint64())
	must(t, book.Fill(conn))
	for _, s := range c.Servers[:losses+1] {
		must(t, c.Kill(s))
	}
	// Three times what a connection may have in flight (nbd.Config.Window), so that most
	// of it lies unread for as long as those before take.
	const reads, patience = 3 * 64, 10 * time.Second
	begin := time.Now()
	errs := make(chan error, reads)
	for i := range reads {
		go func() {
			_, err := conn.ReadAt(make([]byte, mib), int64(i)*mib%conn.Size())
			errs <- err
		}()
	}
	for range reads {
		if err := <-errs; !isEIO(err) {
			t.Fatalf("a read while too few servers are up: %v", err)
		}
	}
	t.Logf("%d reads of 1 MiB took %v", reads, time.Since(begin).Round(time.Millisecond))
	if took := time.Since(begin); took > 5*patience {
		t.Errorf("%d reads took %v", reads, took)
	}
	for i := range losses + 1 {
		_, err := c.Restart(&c.Servers[i])
		must(t, err)
	}
	c.awaitVolume("the lost members are replaced", func(v volumeStatus) bool {
		return v.StuckMembers == 0 && v.RebuildingMembers > 0 && v.Report != nil && len(v.Report.Suspect) == 0
	})
	must(t, conn.Trim(0, uint32(conn.Size()/2)))
	must(t, book.Fill(conn))
	c.awaitStatus(healthy, noticeLimit)
	if err := book.Check(conn).Err(); err != nil {
		t.Error(err)
	}
}
