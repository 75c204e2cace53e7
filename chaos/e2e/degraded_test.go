package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	devcluster "dmps/chaos/cluster"
	"dmps/chaos/e2e/ledger"
	"dmps/chaos/netfault"
	"dmps/chaos/plan"
	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/raid"
)

// everyChoice has all choices of who is out tried, which takes a quarter of an hour,
// instead of some, and takeovers again and again: `make degraded`.
var everyChoice = os.Getenv("DMPS_E2E_CHOICES") == "all"

// Of the tests on clusters that have no server to spare.
const (
	leanPages    = 256              // of the volume that are used
	leanWrites   = 64               // of single pages, while somebody is out
	leanPatience = 2 * time.Second  // of a client: pages that cannot be read are refused after it
	leanAttach   = 30 * time.Second // a client that must serve does so by then
	leanRefusal  = 8 * time.Second  // one that may refuse to, and does not serve by then, has refused
)

// lean is a cluster of exactly K+M servers: no row can be written around one that is
// out. Relays are between the client and the servers.
type lean struct {
	t      *testing.T
	g      raid.Geometry
	cl     *devcluster.Cluster
	net    *netfault.Net
	rnd    *rand.Rand
	ledger *ledger.Ledger
	conn   *nbdclient.Conn
	back   map[int]func() // brings a server back that is out

	pages        int          // written singly
	older, wrong map[int]bool // of the pages of the present choice
	nOlder       int          // of all choices; likewise
	nWrong       int
	refused      int
	noClient     int // times when a client would not serve at all
	shown        int
}

func startLean(t *testing.T, g raid.Geometry) *lean {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	must(t, err)
	seed := rand.Uint64()
	t.Logf("%v, seed %#x", g, seed)
	c := &lean{t: t, g: g, rnd: rand.New(rand.NewPCG(seed, 1)), ledger: ledger.New(leanPages, seed), back: map[int]func(){}}
	c.net = netfault.New(netfault.Owners(c.roles))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c.cl, err = devcluster.Start(ctx, devcluster.Config{
		Bin: dmpsBin, Dir: dir, Meta: 1, Servers: g.Members(), ServerMemory: 64 * bytesize.MiB, Redundancy: g,
		Size: 8 * bytesize.MiB, Volume: "lean", NBD: nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd.sock")},
		Front: func(role, address string) (string, error) {
			if !plan.Role(role).IsServer() {
				return address, nil
			}
			return c.net.Front("", plan.Role(role), address)
		},
		ServerArgs: []string{"--allow-swappable"}, ClientArgs: []string{"--allow-swappable", "--patience", leanPatience.String()},
	})
	if err != nil {
		t.Fatal(errors.Join(err, c.net.Close(), os.RemoveAll(dir)))
	}
	t.Cleanup(func() {
		c.allBack()
		if t.Failed() {
			f := c.cl.File()
			t.Logf("the client's log:\n%s", devcluster.Tail(f.Client.Log, 20))
		}
		if err := errors.Join(c.cl.Stop(), c.net.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if !c.serves(leanAttach) {
		t.Fatal("the first client does not serve")
	}
	must(t, c.ledger.Fill(c.conn))
	return c
}

// roles tells the relays who dials: nobody while the cluster starts.
func (c *lean) roles() map[int]plan.Role {
	if c.cl == nil {
		return nil
	}
	f := c.cl.File()
	m := map[int]plan.Role{}
	for _, r := range f.Roles() {
		m[r.PID] = plan.Role(r.ID)
	}
	return m
}

// out takes servers away from the client, each in a way of its own: cut off from it,
// or stopped.
func (c *lean) out(set uint) {
	c.t.Helper()
	f := c.cl.File()
	for i, s := range f.Servers {
		if set>>i&1 == 0 {
			continue
		}
		if c.rnd.IntN(2) == 0 {
			must(c.t, syscall.Kill(s.PID, syscall.SIGSTOP))
			c.back[i] = func() { _ = syscall.Kill(s.PID, syscall.SIGCONT) } // one that ended is found when it is missed
			continue
		}
		mend, err := c.net.Break(plan.Fault{Kind: plan.Cut, Link: plan.Link{A: plan.Client, B: plan.Role(s.ID)}})
		must(c.t, err)
		c.back[i] = mend
	}
}

func (c *lean) allBack() {
	for _, back := range c.back {
		back()
	}
	clear(c.back)
}

// serves waits for the client, and reports false when it ended, or does not serve
// within the limit.
func (c *lean) serves(limit time.Duration) bool {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	f := c.cl.File()
	addr, err := nbdclient.ParseURI(f.NBD)
	must(c.t, err)
	for ctx.Err() == nil && !devcluster.Ended(f.Client.PID) {
		conn, err := nbdclient.Dial(ctx, addr)
		if err == nil {
			c.conn = conn
			c.t.Cleanup(func() { conn.Close() }) // it may be broken: clients are killed
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// newClient kills the client if it runs, and starts it again, beside servers that are
// out.
func (c *lean) newClient(out uint, limit time.Duration) bool {
	c.t.Helper()
	f := c.cl.File()
	if !devcluster.Ended(f.Client.PID) {
		must(c.t, c.cl.Kill(f.Client.ID))
	}
	c.allBack()
	c.out(out)
	must(c.t, c.cl.Restart(f.Client.ID))
	return c.serves(limit)
}

// away writes single pages, one after the other, while some servers are out. Then
// the client dies, those come back, others go, and another client reads everything.
// At last nobody is out. Never were more than M out at once.
func (c *lean) away(first, then uint) {
	c.t.Helper()
	what := fmt.Sprintf("%v: %s out, then %s", c.g, servers(first), servers(then))
	c.out(first)
	for range leanWrites {
		kind := ledger.WriteBlock
		switch p := c.rnd.IntN(20); {
		case p < 3:
			kind = ledger.TrimBlock
		case p < 5:
			kind = ledger.WriteZeros
		}
		if err := c.ledger.Change(c.conn, c.rnd.IntN(leanPages), kind); err != nil {
			c.t.Fatalf("%s: a request while no more than M were out: %v", what, err)
		}
		c.pages++
	}
	mayRefuse, limit := bits.OnesCount(first|then) > c.g.M, leanAttach
	if mayRefuse {
		limit = leanRefusal
	}
	c.older, c.wrong = map[int]bool{}, map[int]bool{}
	serves := c.newClient(then, limit)
	refused := 0
	if serves {
		refused = c.read(what)
	} else {
		c.noClient++
	}
	if c.refused += refused; !mayRefuse && (!serves || refused > 0) {
		c.t.Errorf("%s: a client serves: %v, and %d pages were refused:\n%s", what, serves, refused, devcluster.Tail(c.cl.File().Client.Log, 5))
	}
	c.allBack()
	if !serves {
		// One that began before all were back may still refuse; the next one may not.
		serves = c.serves(leanAttach) || c.newClient(0, leanAttach)
	}
	if !serves {
		c.t.Fatalf("%s: all are back, and no client serves:\n%s", what, devcluster.Tail(c.cl.File().Client.Log, 5))
	}
	c.awaitHealthy(what)
	if refused := c.read(what + ", all back"); refused > 0 {
		c.t.Errorf("%s: all are back, and %d pages are refused", what, refused)
	}
	c.nOlder += len(c.older)
	c.nWrong += len(c.wrong)
	// Each choice counts its own: what was lost now is not lost again.
	for block := range leanPages {
		if c.older[block] || c.wrong[block] {
			must(c.t, c.ledger.Change(c.conn, block, ledger.WriteBlock))
		}
	}
}

// read reads every page, and gives how many were refused.
func (c *lean) read(what string) (refused int) {
	c.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for block := range leanPages {
		wg.Go(func() {
			wrong, older, err := c.ledger.Read(c.conn, block)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil && !isEIO(err):
				c.t.Errorf("%s: reading page %d: %v", what, block, err)
			case err != nil:
				refused++
			case older:
				c.older[block] = true
			case wrong != nil:
				c.wrong[block] = true
			}
			if wrong != nil && c.shown < 5 {
				c.shown++
				c.t.Logf("%s: %v", what, wrong)
			}
		})
	}
	wg.Wait()
	return refused
}

func (c *lean) awaitHealthy(what string) {
	c.t.Helper()
	var last string
	for begin := time.Now(); time.Since(begin) < commandLimit; time.Sleep(50 * time.Millisecond) {
		last = run(c.t, "sh", "-c", `"$0" status --meta "$1" || echo "exit code $?"`, dmpsBin, strings.Join(c.cl.File().MetaURLs, ","))
		if !strings.Contains(last, "exit code") {
			return
		}
	}
	c.t.Fatalf("%s: all are back, and the volume is not healthy after %v:\n%s", what, commandLimit, last)
}

// servers names those of a set, for messages.
func servers(set uint) string {
	var all []string
	for i := range bits.UintSize {
		if set>>i&1 != 0 {
			all = append(all, fmt.Sprint(plan.Server(i+1)))
		}
	}
	return strings.Join(all, "+")
}

// choice is who is out while pages are written, and then who is while they are read.
type choice struct{ first, then uint }

// choices are all: 1 to M servers first; then M others, or as many others as there
// are; or the same still, and others up to M.
func choices(g raid.Geometry) (all []choice) {
	n := uint(1) << g.Members()
	for a := uint(1); a < n; a++ {
		if bits.OnesCount(a) > g.M {
			continue
		}
		for b := uint(1); b < n; b++ {
			others := a&b == 0 && bits.OnesCount(b) == min(g.M, g.Members()-bits.OnesCount(a))
			same := a&b == a && bits.OnesCount(b) == g.M
			if others || same {
				all = append(all, choice{a, b})
			}
		}
	}
	return all
}

// TestDegradedSinglePages: what was answered while up to M servers are out is there
// when those are back and others are out, whoever they are. A page may be refused
// only when more than M different servers were out, and never be older.
func TestDegradedSinglePages(t *testing.T) {
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	var mu sync.Mutex
	total := 0
	t.Run("all", func(t *testing.T) {
		for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 1, M: 2}, {K: 2, M: 1}, {K: 2, M: 2}, {K: 3, M: 2}, {K: 4, M: 2}} {
			t.Run(g.String(), func(t *testing.T) {
				t.Parallel()
				c := startLean(t, g)
				all := choices(g)
				c.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				if !everyChoice {
					all = all[:min(4, len(all))]
				}
				for _, x := range all {
					c.away(x.first, x.then)
				}
				mu.Lock()
				total += c.pages
				mu.Unlock()
				t.Logf("%d choices, %d single pages: %d older, %d otherwise wrong, %d refused, %d times no client", len(all), c.pages, c.nOlder, c.nWrong, c.refused, c.noClient)
				c.verdict()
			})
		}
	})
	t.Logf("%d single pages", total)
	if everyChoice && total < 10000 {
		t.Errorf("%d single pages were written, want 10000", total)
	}
}
