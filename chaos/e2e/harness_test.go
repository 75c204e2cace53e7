package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dmps/chaos/e2e/ledger"
	"dmps/chaos/e2e/rig"
	"dmps/internal/nbdclient"
)

// Time limits. A test that meets one fails; none of them is a wait.
const (
	commandLimit = 30 * time.Second // of one command
	// maxStall is how long any one request may take while at most M servers fail.
	maxStall = 5 * time.Second
	// maxHiccup is how long any one request may take while one server fails: the
	// 150 ms of docs/failure.md, and what a busy machine adds.
	maxHiccup = time.Second
	// noticeLimit is how long a failure may go unreported by status.
	noticeLimit = 15 * time.Second
)

// testLimit is that of a whole test.
var testLimit = 2*time.Minute + metaOutage

const mib = 1 << 20

// testCtx gives the test its time limit.
func testCtx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

// needTool skips the test when a program is not installed, or fails it where
// nothing may be skipped.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if required {
				t.Fatalf("%s is not installed", n)
			}
			t.Skipf("%s is not installed", n)
		}
	}
}

// cluster is a running dmps dev.
type cluster struct {
	*rig.Dev
	t *testing.T
}

// start starts a cluster and stops it at the end of the test. By default: RS
// 4+2 over six servers, 256 MiB, one metadata node, on a unix socket.
func start(t *testing.T, change ...func(*rig.DevConfig)) *cluster {
	t.Helper()
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	// Unix socket paths are short, and t.TempDir is not.
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	cfg := rig.DevConfig{
		Bin: dmpsBin, Dir: dir, Meta: 1, Servers: 6, ServerMemory: "256MiB", Redundancy: "rs:4+2",
		Size: "256MiB", NBD: "unix:" + filepath.Join(dir, "nbd.sock"), Volume: "swap0",
	}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(testCtx(t), time.Minute)
	defer cancel()
	d, err := rig.StartDev(ctx, cfg)
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	c := &cluster{Dev: d, t: t}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Errorf("stopping the cluster: %v", err)
		}
		if t.Failed() {
			t.Logf("ends of the logs:\n%s", d.Logs(25))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c
}

// mirror3 makes the cluster a mirror of three copies over six servers.
func mirror3(c *rig.DevConfig) { c.Redundancy, c.ServerMemory = "mirror:3", "384MiB" }

// threeMeta gives the cluster three metadata nodes.
func threeMeta(c *rig.DevConfig) { c.Meta = 3 }

// small makes the volume 64 MiB.
func small(c *rig.DevConfig) { c.Size = "64MiB" }

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// command runs a command to its end, whatever its exit code.
func command(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out.String(), diag.String())
	}
	return result{out.String(), diag.String(), cmd.ProcessState.ExitCode()}
}

// run runs a tool that must succeed, and gives its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	needTool(t, name)
	ctx, cancel := context.WithTimeout(testCtx(t), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	r := command(t, cmd)
	if r.code != 0 {
		t.Fatalf("%v: %v", cmd.Args, r)
	}
	return r.stdout
}

// dmps runs a dmps command against the cluster.
func (c *cluster) dmps(args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), commandLimit)
	defer cancel()
	return command(c.t, c.Command(ctx, args...))
}

// status is what `dmps status --output json` promises at least.
type status struct {
	Volumes []struct {
		Name           string
		State          string
		Redundancy     string
		Groups         *int
		DegradedGroups *int `json:"degraded_groups"`
	}
	Servers []struct {
		ID          string
		State       string
		MemoryTotal *int64 `json:"memory_total"`
		MemoryUsed  *int64 `json:"memory_used"`
	}
}

// Exit codes of `dmps status`.
const (
	healthy  = 0
	degraded = 2
	lost     = 3
)

// status asks for the state and the exit code that goes with it.
func (c *cluster) status() (status, int) {
	c.t.Helper()
	r := c.dmps("status", "--output", "json")
	var s status
	if r.code == healthy || r.code == degraded || r.code == lost {
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
			c.t.Fatalf("status --output json: %v\n%v", err, r)
		}
	}
	return s, r.code
}

// awaitStatus waits until status exits with the code, and tells how long that took.
func (c *cluster) awaitStatus(code int, limit time.Duration) {
	c.t.Helper()
	begin := time.Now()
	for {
		s, got := c.status()
		if got == code {
			c.t.Logf("status exits with %d after %v", code, time.Since(begin).Round(time.Millisecond))
			return
		}
		if time.Since(begin) > limit {
			c.t.Fatalf("status exits with %d after %v, want %d: %+v", got, limit, code, s)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// dial connects to the volume with the project's own client, which shares
// no code with the front end.
func (c *cluster) dial() *nbdclient.Conn {
	c.t.Helper()
	addr, err := nbdclient.ParseURI(c.NBD)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), commandLimit)
	defer cancel()
	conn, err := nbdclient.Dial(ctx, addr)
	if err != nil {
		c.t.Fatalf("connect to %s: %v", c.NBD, err)
	}
	bound(c.t, conn)
	return conn
}

// bound closes a connection at the end of the test, or when its time is up: then
// requests that nobody answers fail instead of hanging.
func bound(t *testing.T, conn *nbdclient.Conn) {
	late := time.AfterFunc(testLimit, func() { conn.Close() })
	t.Cleanup(func() {
		late.Stop()
		conn.Close() // it may be broken: the server was killed
	})
}

// load is a ledger's load on the volume, on several connections.
type load struct {
	*ledger.Load
	ledger *ledger.Ledger
	conns  []*nbdclient.Conn
	c      *cluster
}

// startLoad fills the whole volume and then keeps it busy.
func (c *cluster) startLoad() *load {
	c.t.Helper()
	return c.startLoadOn(c.dial().Size())
}

// startLoadOn does so with the first size bytes.
func (c *cluster) startLoadOn(size int64) *load {
	c.t.Helper()
	const conns, workers = 2, 16
	ld := &load{c: c}
	var devices []ledger.Device
	for range conns {
		conn := c.dial()
		ld.conns = append(ld.conns, conn)
		devices = append(devices, conn)
	}
	seed := rand.Uint64()
	c.t.Logf("seed of the ledger: %#x", seed)
	ld.ledger = ledger.New(int(size/ledger.BlockSize), seed)
	if err := ld.ledger.Fill(ld.conns[0]); err != nil {
		c.t.Fatal(err)
	}
	ld.Load = ld.ledger.Start(c.t.Context(), workers, devices...)
	// A failed test must not leave it running.
	c.t.Cleanup(func() {
		for _, conn := range ld.conns {
			conn.Close()
		}
		ld.Stop()
	})
	ld.more(2000)
	return ld
}

// more waits until n more requests are answered: the load is alive.
func (ld *load) more(n int64) {
	ld.c.t.Helper()
	want := ld.Completed() + n
	for begin := time.Now(); ld.Completed() < want; time.Sleep(time.Millisecond) {
		if time.Since(begin) > commandLimit {
			ld.c.t.Fatalf("the load stands still: %d requests to go after %v", want-ld.Completed(), commandLimit)
		}
	}
}

// flawless ends the load and demands that it met neither an error nor wrong
// data nor a long stall, and that the whole volume still holds what it should.
func (ld *load) flawless() {
	ld.c.t.Helper()
	r := ld.Stop()
	ld.c.t.Logf("load: %v", &r.Stats)
	if err := r.Err(); err != nil {
		ld.c.t.Errorf("during the load: %v", err)
	}
	if r.Stats.Max() > maxStall {
		ld.c.t.Errorf("a %s begun at %v took %v, more than %v", r.Stats.MaxOp, r.Stats.MaxStart.Format("15:04:05.000"), r.Stats.Max(), maxStall)
	}
	ld.check(ld.conns[0])
}

// check reads the whole volume and demands that all is right.
func (ld *load) check(conn *nbdclient.Conn) {
	ld.c.t.Helper()
	r := ld.ledger.Check(conn)
	ld.c.t.Logf("check: %v", &r.Stats)
	if err := r.Err(); err != nil {
		ld.c.t.Errorf("after the load: %v", err)
	}
}

// pids are the processes of all roles as the test knows them.
func (c *cluster) pids() []int {
	var pids []int
	for _, r := range c.Roles() {
		pids = append(pids, r.PID)
	}
	return pids
}

// allAlive demands that no role has died, but for those given.
func (c *cluster) allAlive(but ...int) {
	c.t.Helper()
	for _, r := range c.Roles() {
		if !slices.Contains(but, r.PID) && !rig.Alive(r.PID) {
			c.t.Errorf("%s (pid %d) has died", r.ID, r.PID)
		}
	}
}

// must fails the test on an error of the harness itself.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
