package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/cluster"
	"dmps/internal/exitcode"
	"dmps/internal/loadgen"
	"dmps/internal/nbdclient"
)

// devProcess is `dmps dev`, played by this program.
type devProcess struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	log *bytes.Buffer

	revived sync.WaitGroup // roles that the test has started: dmps dev ends them, the test waits for them
}

func startDev(t *testing.T, args ...string) *devProcess {
	t.Helper()
	return startDevTo(t, nil, args...)
}

// startDevTo has dmps dev write to a pipe, or, without one, to d.log.
func startDevTo(t *testing.T, out *os.File, args ...string) *devProcess {
	t.Helper()
	t.Setenv(roleVariable, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its path may be too long for a socket.
	dir, err := os.MkdirTemp("", "dmps-dev-test-")
	if err != nil {
		t.Fatal(err)
	}
	d := &devProcess{t: t, dir: dir, log: new(bytes.Buffer)}
	d.cmd = exec.Command(self, append([]string{"dev", "--dir", dir, "--nbd", "unix:" + dir + "/nbd.sock"}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if out != nil {
		d.cmd.Stdout, d.cmd.Stderr = out, out
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.cmd.Wait() }()
	t.Cleanup(func() {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err == nil {
			if err := <-ended; err != nil {
				t.Errorf("dmps dev: %v\n%s", err, d.log)
			}
		}
		d.revived.Wait()
		if left := rolesIn(t, dir); len(left) > 0 {
			t.Errorf("processes that are left: %v", left)
		}
		if _, err := cluster.ReadFile(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cluster.json after the end: %v", err)
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
			for _, l := range logs {
				t.Logf("%s:\n%s", filepath.Base(l), cluster.Tail(l, 15))
			}
		}
		os.RemoveAll(dir)
	})
	d.eventually("cluster.json appears", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("dmps dev ended: %v\n%s", err, d.log)
		default:
		}
		_, err := cluster.ReadFile(dir)
		return err == nil
	})
	return d
}

func (d *devProcess) eventually(what string, f func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("never: %s", what)
		}
	}
}

func (d *devProcess) file() cluster.File {
	d.t.Helper()
	f, err := cluster.ReadFile(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	return f
}

// run is a dmps command about this cluster.
func (d *devProcess) run(args ...string) (int, string, string) {
	return runCLI(append(args, "--meta", strings.Join(d.file().MetaURLs, ","))...)
}

func (d *devProcess) dial() *nbdclient.Conn {
	d.t.Helper()
	addr, err := nbdclient.ParseURI(d.file().NBD)
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := nbdclient.Dial(d.t.Context(), addr)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// again starts a role by its argv, as anybody may.
func (d *devProcess) again(r cluster.Role) {
	d.t.Helper()
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	// How it ends is no concern of the test.
	d.revived.Go(func() { _ = cmd.Wait() })
}

// fillDevice writes every page; checkDevice reads them all back.
func (d *devProcess) fillDevice(c *nbdclient.Conn, data loadgen.Data) {
	d.t.Helper()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < c.Size(); off += int64(len(buf)) {
		for p := int64(0); p < int64(len(buf)); p += loadgen.PageSize {
			data.Fill(buf[p:p+loadgen.PageSize], uint64((off+p)/loadgen.PageSize), 0)
		}
		if _, err := c.WriteAt(buf, off); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *devProcess) checkDevice(c *nbdclient.Conn, data loadgen.Data) {
	d.t.Helper()
	buf, scratch := make([]byte, 1<<20), make([]byte, loadgen.PageSize)
	for off := int64(0); off < c.Size(); off += int64(len(buf)) {
		if _, err := c.ReadAt(buf, off); err != nil {
			d.t.Fatal(err)
		}
		for p := int64(0); p < int64(len(buf)); p += loadgen.PageSize {
			if n := data.Wrong(buf[p:p+loadgen.PageSize], uint64((off+p)/loadgen.PageSize), 0, scratch); n > 0 {
				d.t.Fatalf("%d wrong bytes in the page at %d", n, off+p)
			}
		}
	}
}

// statusJSON is what `dmps status --output json` promises at least.
type statusJSON struct {
	Volumes []struct {
		Name           *string `json:"name"`
		State          *string `json:"state"`
		Redundancy     *string `json:"redundancy"`
		Groups         *int    `json:"groups"`
		DegradedGroups *int    `json:"degraded_groups"`
		Live           bool    `json:"live"`
	} `json:"volumes"`
	Servers []struct {
		ID          *string `json:"id"`
		State       *string `json:"state"`
		MemoryTotal *int64  `json:"memory_total"`
		MemoryUsed  *int64  `json:"memory_used"`
	} `json:"servers"`
}

func (d *devProcess) status() (int, statusJSON) {
	d.t.Helper()
	code, out, errOut := d.run("status", "--output", "json")
	var s statusJSON
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		d.t.Fatalf("status: %v\n%s%s", err, out, errOut)
	}
	return code, s
}

// TestDev goes through the life of an embedded cluster: everything that
// docs/dev-cluster.md promises.
func TestDev(t *testing.T) {
	if testing.Short() {
		t.Skip("starts nine processes")
	}
	d := startDev(t, "--meta", "3", "--servers", "4", "--server-memory", "64MiB", "--redundancy", "rs:2+1", "--size", "32MiB", "--volume", "vol1")
	f := d.file()
	data := loadgen.Data{Seed: 1}
	conn := d.dial()
	if conn.Size() != 32<<20 {
		t.Fatalf("the device has %d bytes", conn.Size())
	}
	d.fillDevice(conn, data)

	code, s := d.status()
	if code != exitcode.OK || len(s.Volumes) != 1 || len(s.Servers) != 4 {
		t.Fatalf("exit code %d, %+v", code, s)
	}
	v := s.Volumes[0]
	if v.Name == nil || *v.Name != "vol1" || v.State == nil || *v.State != "healthy" || v.Redundancy == nil || *v.Redundancy != "rs:2+1" ||
		v.Groups == nil || *v.Groups == 0 || v.DegradedGroups == nil || *v.DegradedGroups != 0 || !v.Live {
		t.Errorf("volume: %+v", v)
	}
	for _, srv := range s.Servers {
		if srv.ID == nil || srv.State == nil || *srv.State != "up" || srv.MemoryTotal == nil || *srv.MemoryTotal != 64<<20 || srv.MemoryUsed == nil {
			t.Errorf("server: %+v", srv)
		}
	}

	t.Run("commands", func(t *testing.T) { d.tryCommands(t) })
	t.Run("admin", func(t *testing.T) { tryAdmin(t, f.Client.Admin) })
	t.Run("second attach", func(t *testing.T) { d.trySecondAttach(t) })

	// A server dies: nothing is lost, and status says so at once.
	dead := f.Servers[2]
	if err := syscall.Kill(dead.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.checkDevice(conn, data)
	d.eventually("status is degraded", func() bool { code, _ := d.status(); return code == exitcode.Degraded })
	if _, s := d.status(); *s.Volumes[0].State != "degraded" || *s.Volumes[0].DegradedGroups == 0 {
		t.Errorf("volume: %+v", s.Volumes[0])
	}
	if code, out, _ := d.run("status"); code != exitcode.Degraded || !strings.HasPrefix(out, "DEGRADED") || strings.Contains(out, "\x1b") {
		t.Errorf("status for people: %d\n%s", code, out)
	}
	d.eventually("cluster.json says that the server ended", func() bool { return !d.file().Servers[2].Running })
	d.again(dead)
	d.eventually("cluster.json has the server's new process", func() bool {
		r := d.file().Servers[2]
		return r.Running && r.PID != dead.PID
	})

	// The client dies: another process of the same command line has it all.
	if err := syscall.Kill(f.Client.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ReadAt(make([]byte, 4096), 0); !errors.Is(err, nbdclient.ErrClosed) {
		t.Errorf("read from a dead client: %v", err)
	}
	if err := conn.Close(); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("closing the connection to a dead client: %v", err)
	}
	d.eventually("cluster.json says that the client ended", func() bool { return !d.file().Client.Running })
	d.again(f.Client)
	addr, err := nbdclient.ParseURI(f.NBD)
	if err != nil {
		t.Fatal(err)
	}
	d.eventually("the new client serves", func() bool {
		conn, err = nbdclient.Dial(t.Context(), addr)
		return err == nil
	})
	defer conn.Close()
	d.checkDevice(conn, data)
}

// tryCommands asks for everything that can be asked for.
func (d *devProcess) tryCommands(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want []string // in standard output, or in standard error when the code is not 0
	}{
		{"volume list", 0, []string{"vol1", "healthy", "rs:2+1", "32 MiB"}},
		{"volume list --output json", 0, []string{`"name": "vol1"`}},
		{"volume show vol1", 0, []string{"redundancy", "attached to", "GROUP", "server1"}},
		{"volume show vol1 --output json", 0, []string{`"members"`, `"in-sync"`}},
		{"volume show nope", exitcode.NotFound, []string{"volume list"}},
		{"volume create vol1 --size 1MiB --redundancy none", exitcode.Failure, []string{"volume show"}},
		{"volume create small --size 1MiB --failure-domain server --redundancy mirror:2", 0, []string{"created small", "dmps attach small"}},
		{"volume create huge --size 1TiB --redundancy none", exitcode.Failure, []string{"server list"}},
		{"volume create wide --size 1MiB --redundancy rs:4+2 --failure-domain server", exitcode.Failure, []string{"failure"}},
		{"volume delete small", exitcode.Usage, []string{"--yes"}},
		{"volume delete small --yes", 0, []string{"deleted small"}},
		{"volume delete vol1 --yes", exitcode.InUse, []string{"vol1"}},
		{"rebuild vol1", 0, []string{"vol1: whole, can lose 1"}},
		{"rebuild vol1 --watch --rate 100MiB", 0, []string{"vol1: whole"}},
		{"rebuild vol1 --output json", 0, []string{`"whole": true`, `"replaced_members": 0`}},
		{"rebuild nope", exitcode.NotFound, []string{"volume list"}},
		{"events", 0, []string{"volume-created", "volume-attached", "server-joined"}},
		{"events --output json --volume vol1", 0, []string{`"kind":"volume-created"`}},
		{"events --since 1h --server server1 -n 3", 0, []string{"server1"}},
		{"events --since yesterday", exitcode.Usage, []string{"10m"}},
		{"top --once --every 200ms", 0, []string{"IN/S", "vol1", "server1", "P99"}},
		{"top --once --every 200ms --output json", 0, []string{`"p99_ns"`, `"ops_per_second"`}},
		{"server list", 0, []string{"server1", "up", "64 MiB", "host="}},
		{"server list --output json", 0, []string{`"id": "server4"`}},
		{"server remove nope", exitcode.NotFound, []string{"nope"}},
		{"server remove nope --dry-run", exitcode.NotFound, []string{"server list"}},
		{"server drain nope", exitcode.NotFound, []string{"server list"}},
		{"server undrain nope", exitcode.NotFound, []string{"server list"}},
		{"events --volume nope", exitcode.NotFound, []string{"volume list"}},
		{"events --server nope --since 1h", exitcode.NotFound, []string{"server list"}},
		{"events -f --volume nope", exitcode.NotFound, []string{"volume list"}},
		{"events --volume small", 0, []string{"volume-deleted"}},
		{"volume delete nope --yes", exitcode.NotFound, []string{"volume list"}},
		{"volume accept-loss nope --yes", exitcode.NotFound, []string{"volume list"}},
		{"scrub nope", exitcode.NotFound, []string{"volume list"}},
		{"scrub nope --stop", exitcode.NotFound, []string{"volume list"}},
		{"detach nope", exitcode.NotFound, []string{"volume list"}},
		{"attach nope --nbd 127.0.0.1:0 --allow-swappable", exitcode.NotFound, []string{"volume list"}},
		{"meta leave nope --yes", exitcode.NotFound, []string{"meta list"}},
		{"meta list", 0, []string{"meta1", "leader", "follower"}},
		{"__complete volume show ", 0, []string{"vol1"}},
		{"__complete rebuild ", 0, []string{"vol1"}},
		{"__complete events --volume ", 0, []string{"vol1"}},
		{"__complete attach ", 0, []string{"vol1"}},
		{"__complete server remove ", 0, []string{"server1", "server4"}},
	} {
		words := strings.Fields(c.args)
		if words[0] == "__complete" {
			// The shell passes what was typed so far last, here nothing.
			words = append([]string{"__complete", "--meta", strings.Join(d.file().MetaURLs, ",")}, words[1:]...)
			code, out, errOut := runCLI(append(words, "")...)
			expect(t, c.args, code, c.code, out, errOut, c.want)
			continue
		}
		code, out, errOut := d.run(words...)
		if c.code != 0 {
			out = errOut
		}
		expect(t, c.args, code, c.code, out, errOut, c.want)
	}
}

func expect(t *testing.T, what string, code, wantCode int, out, errOut string, want []string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("dmps %s: exit code %d, want %d\n%s", what, code, wantCode, errOut)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("dmps %s: no %q in:\n%s", what, w, out)
		}
	}
}

// tryAdmin asks a client's admin address.
func tryAdmin(t *testing.T, base string) {
	for path, want := range map[string]string{
		"/status":  `"volume": "vol1"`,
		"/metrics": `dmps_volume_state{state="healthy",volume="vol1"} 1`,
		"/healthz": "ok",
	} {
		res, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, no %q in:\n%s", path, res.Status, want, b)
		}
	}
	res, err := http.Get(base + "/debug/pprof/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("profiles are served unasked: %s", res.Status)
	}
}

// trySecondAttach: a volume in use is not taken by mistake.
func (d *devProcess) trySecondAttach(t *testing.T) {
	attach := func(nbd string) (int, string) {
		code, _, errOut := d.run("attach", "vol1", "--nbd", nbd, "--allow-swappable")
		return code, errOut
	}
	if code, errOut := attach("unix:" + d.dir + "/nbd.sock"); code != exitcode.CannotListen {
		t.Errorf("on the same address: exit code %d\n%s", code, errOut)
	}
	if code, errOut := attach("unix:" + d.dir + "/other.sock"); code != exitcode.InUse || !strings.Contains(errOut, "--takeover") {
		t.Errorf("on another address: exit code %d\n%s", code, errOut)
	}
	if code, s := d.status(); code != exitcode.OK || !s.Volumes[0].Live {
		t.Errorf("the first client suffered: %d, %+v", code, s)
	}
}

// timeout(1) signals its child, and then the process group: the second signal comes at once,
// and is the same request. It must not keep dmps dev from ending its roles.
func TestDevIsSignalledTwice(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d := startDevTo(t, log, "--meta", "1", "--servers", "1", "--redundancy", "none", "--server-memory", "32MiB", "--size", "16MiB")
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.eventually("it has taken the signal", func() bool {
		b, err := os.ReadFile(log.Name())
		return err == nil && bytes.Contains(b, []byte("ending all roles"))
	})
	// The end of the test sends another one.
}

// Where another program serves NBD nothing is started, and its disk is not handed out.
func TestDevRefusesTheAddressOfAnother(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv(roleVariable, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, err := exec.Command(self, "dev", "--dir", dir, "--nbd", l.Addr().String()).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitcode.CannotListen || !strings.Contains(string(out), "another program serves there") {
		t.Errorf("%v\n%s", err, out)
	}
	if logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log")); len(logs) > 0 {
		t.Errorf("roles were started: %v", logs)
	}
}

// TestDevRefusesWhatDoesNotFit: the error says what is missing.
func TestDevRefusesWhatDoesNotFit(t *testing.T) {
	t.Setenv(roleVariable, "1")
	dir := t.TempDir()
	code, _, errOut := runCLI("dev", "--dir", dir, "--nbd", "127.0.0.1:0", "--meta", "1", "--servers", "1",
		"--server-memory", "16MiB", "--redundancy", "none", "--size", "64MiB")
	if code != exitcode.Failure || !strings.Contains(errOut, "--server-memory") || !strings.Contains(errOut, "16 MiB each") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if left := rolesIn(t, dir); len(left) > 0 {
		t.Errorf("processes that are left: %v", left)
	}
}

// rolesIn lists the processes whose pid file is in dir.
func rolesIn(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), "--pidfile\x00"+dir+"/") {
			found = append(found, filepath.Dir(f))
		}
	}
	return found
}

// TestDemo runs a small demo to its end.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and writes 16 MiB")
	}
	t.Setenv(roleVariable, "1")
	code, out, errOut := runCLI("demo", "--meta", "1", "--servers", "4", "--redundancy", "rs:2+1", "--size", "16MiB", "--server-memory", "64MiB", "--seed", "7")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, errOut)
	}
	for _, want := range []string{"Every byte is there.", "wrong bytes      0 of 16777216", "failed requests  0", "with SIGKILL", "degraded"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if !strings.Contains(errOut, "killed server") {
		t.Errorf("no server was killed:\n%s", errOut)
	}
}

// TestBench measures a small cluster for a moment.
func TestBench(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Setenv(roleVariable, "1")
	code, out, errOut := runCLI("bench", "--meta", "1", "--servers", "1", "--redundancy", "none", "--layout", "linear", "--size", "8MiB", "--server-memory", "64MiB",
		"--time", "50ms", "--depth", "4", "--output", "json")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, errOut)
	}
	var r struct {
		Results []benchRow `json:"results"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != 8 {
		t.Fatalf("%d results, want 4 kinds of 2 sizes", len(r.Results))
	}
	for _, row := range r.Results {
		if row.Requests == 0 || row.P50US <= 0 || row.P99US < row.P50US || row.MaxUS < row.P999US {
			t.Errorf("%+v", row)
		}
	}
}

// TestDevOutlivesItsReader: dmps dev whose output nobody reads any more still
// ends what it has started.
func TestDevOutlivesItsReader(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := startDevTo(t, w, "--meta", "1", "--servers", "1", "--server-memory", "16MiB", "--redundancy", "none", "--size", "4MiB")
	if err := errors.Join(w.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	// The end of a role is logged, which fails now; the cleanup of the test
	// expects an orderly end.
	dead := d.file().Servers[0]
	if err := syscall.Kill(dead.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.eventually("cluster.json says that the server ended", func() bool { return !d.file().Servers[0].Running })
}
