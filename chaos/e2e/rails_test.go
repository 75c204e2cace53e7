package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	devcluster "dmps/chaos/cluster"
	"dmps/chaos/e2e/rig"
	"dmps/chaos/netfault"
	"dmps/chaos/plan"
	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/raid"
)

// Every server has two addresses. One of the networks goes dark under fio's verified
// load, twice: paging goes on by the other one, no server is suspected, and the rails
// come back.
func TestFioVerifyWhileANetworkIsDark(t *testing.T) {
	needTool(t, "fio")
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	if scheme := os.Getenv("DMPS_E2E_TRANSPORT"); scheme != "" && scheme != "tcp" {
		t.Skipf("over %s pages go past the relays, which are before the links alone", scheme)
	}
	dir, err := os.MkdirTemp("", "e2e-")
	must(t, err)
	defer os.RemoveAll(dir)
	n := netfault.New(nil)
	defer func() { must(t, n.Close()) }()
	second := plan.Link{A: "host", B: "second network"}
	front := func(_, address string) (string, error) {
		if !strings.HasPrefix(address, "127.0.0.2:") {
			return address, nil
		}
		return n.Front(second.A, second.B, address)
	}
	ctx, cancel := context.WithTimeout(testCtx(t), time.Minute)
	defer cancel()
	cl, err := devcluster.Start(ctx, devcluster.Config{
		Bin: dmpsBin, Dir: dir, Meta: 1, Servers: 6, ServerMemory: 256 * bytesize.MiB, Redundancy: raid.Geometry{K: 4, M: 2},
		Size: 256 * bytesize.MiB, Volume: "swap0", NBD: nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd.sock")},
		Rails: 2, Front: front,
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
		mend, err := n.Break(plan.Fault{Kind: plan.Cut, Link: second})
		must(t, err)
		c.await("a dark network", func(n map[string]int64) bool { return n["rails"] == 6 && n["rails_down"] == 6 })
		mend()
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
	// A machine that is busy is late, and the volume degraded for a moment: exit code 2.
	out := run(c.t, "sh", append([]string{"-c", `"$0" "$@" || [ $? = 2 ]`, dmpsBin}, c.argv...)...)
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
