package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	devcluster "dmps/chaos/cluster"
	"dmps/chaos/e2e/rig"
	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/raid"
)

// cables are the second network: every connection by it can be stopped at once,
// without an end that anybody hears of.
type cables struct {
	wg sync.WaitGroup

	mu     sync.Mutex
	thaw   *sync.Cond
	frozen bool
	open   []interface{ Close() error }
}

// front puts one before a server's second address.
func (k *cables) front(_, address string) (string, error) {
	if !strings.HasPrefix(address, "127.0.0.2:") {
		return address, nil
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return "", err
	}
	k.keep(l)
	k.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				continue
			}
			k.keep(in, out)
			k.wg.Go(func() { k.pass(in, out) })
			k.wg.Go(func() { k.pass(out, in) })
		}
	})
	return l.Addr().String(), nil
}

func (k *cables) keep(c ...interface{ Close() error }) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open = append(k.open, c...)
}

func (k *cables) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		k.mu.Lock()
		for k.frozen {
			k.thaw.Wait()
		}
		k.mu.Unlock()
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (k *cables) freeze(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frozen = on
	k.thaw.Broadcast()
}

func (k *cables) close() {
	k.freeze(false)
	k.mu.Lock()
	for _, c := range k.open {
		c.Close()
	}
	k.mu.Unlock()
	k.wg.Wait()
}

// Every server has two addresses. One of the networks goes dark under fio's verified
// load, twice: paging goes on by the other one, no server is suspected, and the rails
// come back.
func TestFioVerifyWhileANetworkIsDark(t *testing.T) {
	needTool(t, "fio")
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	dir, err := os.MkdirTemp("", "e2e-")
	must(t, err)
	defer os.RemoveAll(dir)
	k := &cables{}
	k.thaw = sync.NewCond(&k.mu)
	defer k.close()
	ctx, cancel := context.WithTimeout(testCtx(t), time.Minute)
	defer cancel()
	cl, err := devcluster.Start(ctx, devcluster.Config{
		Bin: dmpsBin, Dir: dir, Meta: 1, Servers: 6, ServerMemory: 256 * bytesize.MiB, Redundancy: raid.Geometry{K: 4, M: 2},
		Size: 256 * bytesize.MiB, Volume: "swap0", NBD: nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd.sock")},
		Scheme: os.Getenv("DMPS_E2E_TRANSPORT"), Rails: 2, Front: k.front,
		ServerArgs: []string{"--allow-swappable"}, ClientArgs: []string{"--allow-swappable"},
	})
	must(t, err)
	defer func() {
		if t.Failed() {
			if b, err := os.ReadFile(cl.File().Client.Log); err == nil {
				t.Logf("the client's log:\n%s", b)
			}
		}
		if err := cl.Stop(); err != nil {
			t.Error(err)
		}
	}()
	c := &asked{t: t, argv: []string{"status", "--output", "json", "--meta", strings.Join(cl.File().MetaURLs, ",")}}
	c.await("all rails", func(n map[string]int64) bool { return n["rails"] == 12 && n["rails_down"] == 0 })
	f := startFio(t, &cluster{Dev: &rig.Dev{Cluster: rig.Cluster{NBD: cl.File().NBD}}, t: t}, 8*time.Second)
	for range 2 {
		time.Sleep(time.Second)
		k.freeze(true)
		c.await("a dark network", func(n map[string]int64) bool { return n["rails"] == 6 && n["rails_down"] == 6 })
		k.freeze(false)
		c.await("both networks", func(n map[string]int64) bool { return n["rails"] == 12 && n["rails_down"] == 0 })
	}
	f.flawless()
	if n := c.counters(); n["sessions_lost"] != 0 || n["degraded_rows_written"] != 0 || n["io_errors"] != 0 {
		t.Errorf("a rail's end was taken for a server's: %v", n)
	}
}

// asked asks a cluster that was not started by dmps dev.
type asked struct {
	t    *testing.T
	argv []string
}

// counters are those of the volume's client, as it last reported them.
func (c *asked) counters() map[string]int64 {
	c.t.Helper()
	var s struct {
		Volumes []struct {
			Report struct {
				Counters map[string]int64
			}
		}
	}
	out := run(c.t, dmpsBin, c.argv...)
	if err := json.Unmarshal([]byte(out), &s); err != nil || len(s.Volumes) != 1 {
		c.t.Fatal(errors.Join(err, errors.New(out)))
	}
	return s.Volumes[0].Report.Counters
}

func (c *asked) await(what string, ok func(map[string]int64) bool) {
	c.t.Helper()
	var n map[string]int64
	for end := time.Now().Add(noticeLimit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if n = c.counters(); ok(n) {
			return
		}
	}
	c.t.Fatalf("%s: %d rails are up, %d down", what, n["rails"], n["rails_down"])
}
