package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"dmps/internal/bytesize"
	"dmps/internal/nbdclient"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// fakeConfig is a cluster whose roles are played by this program.
func fakeConfig(t *testing.T) Config {
	t.Helper()
	t.Setenv(fakeVariable, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its path with the test's name may be too long for a socket.
	dir, err := os.MkdirTemp("", "cluster")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Config{
		Bin: self, Dir: dir, Meta: 3, Servers: 3, ServerMemory: 64 * bytesize.MiB,
		Redundancy: raid.Geometry{K: 2, M: 1}, Size: bytesize.GiB, Volume: "swap0",
		NBD:          nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd.sock")},
		StartTimeout: time.Minute,
		connect:      func([]string) (control, error) { return &fakeControl{dir: dir}, nil },
	}
}

func mustStart(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// running lists processes that run this program as a role in dir.
func running(t *testing.T, dir string) []int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), "--pidfile\x00"+dir+"/") {
			pid, err := strconv.Atoi(strings.Split(f, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestStartAndStop(t *testing.T) {
	cfg := fakeConfig(t)
	c := mustStart(t, cfg)
	f, err := ReadFile(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c.File(), f); d != "" {
		t.Errorf("cluster.json is not what the cluster says: %s", d)
	}
	if len(f.Meta) != 3 || len(f.Servers) != 3 || f.Redundancy != "rs:2+1" || f.SizeBytes != 1<<30 {
		t.Errorf("%+v", f)
	}
	if want := "nbd+unix:///swap0?socket=" + cfg.NBD.Address; f.NBD != want {
		t.Errorf("NBD is %s, want %s", f.NBD, want)
	}
	for _, r := range f.Roles() {
		if pid, alive := pidOf(filepath.Join(cfg.Dir, "run", r.ID+".pid")); !alive || pid != r.PID || !r.Running {
			t.Errorf("%s: pid %d in its file (alive %v), %d in cluster.json", r.ID, pid, alive, r.PID)
		}
		if !filepath.IsAbs(r.Argv[0]) {
			t.Errorf("%s: argv begins with %s", r.ID, r.Argv[0])
		}
	}
	if n := len(running(t, cfg.Dir)); n != 7 {
		t.Errorf("%d processes run, want 7", n)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := ReadFile(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Stop: %v", err)
	}
	if left := running(t, cfg.Dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
	if _, err := os.Stat(cfg.NBD.Address); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	// The folder serves again.
	if err := mustStart(t, cfg).Stop(); err != nil {
		t.Error(err)
	}
}

// TestRestartByAnybody kills a role, starts it by its argv from outside, and
// expects the new process in cluster.json and its end at Stop.
func TestRestartByAnybody(t *testing.T) {
	cfg := fakeConfig(t)
	c := mustStart(t, cfg)
	defer c.Stop()
	r := c.File().Servers[1]
	if err := c.Kill(r.ID); err != nil {
		t.Fatal(err)
	}
	read := func() Role {
		f, err := ReadFile(cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		return f.Servers[1]
	}
	eventually(t, "cluster.json says that the role ended", func() bool { return !read().Running })
	if read().PID != r.PID {
		t.Error("the pid of a dead role was forgotten")
	}
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "cluster.json has the new process", func() bool { n := read(); return n.Running && n.PID == cmd.Process.Pid })
	if err := c.Kill("server1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart("server1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart("server1"); err == nil {
		t.Error("a running role was started again")
	}
	// One that has just begun can be killed as well.
	for range 5 {
		if err := c.Kill("server1"); err != nil {
			t.Fatal(err)
		}
		if err := c.Restart("server1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the role that was started from outside: %v", err)
	}
	if left := running(t, cfg.Dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

func TestStopEndsFrozenAndDeaf(t *testing.T) {
	cfg := fakeConfig(t)
	cfg.ServerArgs = []string{"--deaf"}
	c := mustStart(t, cfg)
	frozen := c.File().Meta[0]
	if err := syscall.Kill(frozen.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("Stop took %v", took)
	}
	if left := running(t, cfg.Dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

func TestStartFailures(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*testing.T, *Config)
		want   []string
	}{
		"a role ends": {
			func(_ *testing.T, c *Config) { c.ServerArgs = []string{"--fail"} },
			[]string{"server", "exit status 1", "the fake role refuses to work"},
		},
		"no space": {
			func(_ *testing.T, c *Config) {
				c.connect = func([]string) (control, error) {
					return &fakeControl{dir: c.Dir, create: metaclient.ErrNoSpace}, nil
				}
			},
			[]string{"not enough memory", "3 servers lend 64 MiB each", "--server-memory"},
		},
		"NBD address in use": {
			func(t *testing.T, c *Config) {
				l, err := net.Listen("unix", c.NBD.Address)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
			},
			[]string{"another program serves there"},
		},
		"NBD address is a folder": {
			func(t *testing.T, c *Config) {
				if err := os.Mkdir(c.NBD.Address, 0o755); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"something else is there"},
		},
		"too few servers": {
			func(_ *testing.T, c *Config) { c.Servers = 2 },
			[]string{"rs:2+1 needs 3 memory servers", "have 2"},
		},
		"even number of nodes": {func(_ *testing.T, c *Config) { c.Meta = 2 }, []string{"must be 1, 3 or 5"}},
		"layout with parity":   {func(_ *testing.T, c *Config) { c.Layout = raid.LayoutStriped }, []string{"--redundancy none"}},
		"long socket path": {
			func(_ *testing.T, c *Config) { c.NBD.Address = "/" + strings.Repeat("x", 107) },
			[]string{"longer than the 107 bytes"},
		},
		"foreign folder": {
			func(t *testing.T, c *Config) {
				if err := os.Mkdir(filepath.Join(c.Dir, "logs"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"no cluster made"},
		},
		"never ready": {
			func(_ *testing.T, c *Config) {
				c.StartTimeout = 200 * time.Millisecond
				c.connect = func([]string) (control, error) { return &fakeControl{dir: "/nowhere"}, nil }
			},
			[]string{"not within 200ms", "0 of 3 servers are up"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := fakeConfig(t)
			c.change(t, &cfg)
			_, err := Start(t.Context(), cfg)
			if err == nil {
				t.Fatal("started")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
			if left := running(t, cfg.Dir); len(left) > 0 {
				t.Errorf("still running: %v", left)
			}
		})
	}
}

// Who answers at the client's admin address is asked for its process: another one says nothing
// about this volume.
func TestClientSpeaksForItself(t *testing.T) {
	for answer, want := range map[string]string{
		`{"pid":1,"nbd":"nbd://x"}`: "process 1, which is not the client",
		`{"pid":7}`:                 "serves \"\"",
		`{"pid":7,"nbd":"nbd://x"}`: "",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		c := &Cluster{}
		c.mu.file.Client = Role{Admin: s.URL, PID: 7}
		err := c.clientServes(t.Context())
		s.Close()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

func TestPortTakenMeanwhile(t *testing.T) {
	cfg := fakeConfig(t)
	token := filepath.Join(cfg.Dir, "token")
	if err := os.WriteFile(token, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.RoleArgs = []string{"--port-taken-once", token}
	c := mustStart(t, cfg)
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(token); !errors.Is(err, fs.ErrNotExist) {
		t.Error("no role claimed that its port was taken: the test tested nothing")
	}
}

func TestFolderIsTakenOnce(t *testing.T) {
	cfg := fakeConfig(t)
	c := mustStart(t, cfg)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second start: %v", err)
	}
	if _, err := ReadFile(cfg.Dir); err != nil {
		t.Errorf("the second start harmed the first: %v", err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

// TestLeftovers plays a dmps dev that was killed: its roles live on.
func TestLeftovers(t *testing.T) {
	cfg := fakeConfig(t)
	c := mustStart(t, cfg)
	close(c.stopWatch)
	c.watching.Wait()
	if err := c.dir.release(); err != nil {
		t.Fatal(err)
	}
	before := running(t, cfg.Dir)
	_, err := Start(t.Context(), cfg)
	if !errors.Is(err, ErrLeftovers) || !strings.Contains(err.Error(), "--force") || !strings.Contains(err.Error(), "server1 (pid ") {
		t.Fatalf("without force: %v", err)
	}
	cfg.Force = true
	again := mustStart(t, cfg)
	after := running(t, cfg.Dir)
	for _, pid := range before {
		if slices.Contains(after, pid) {
			t.Errorf("process %d of the first cluster still runs", pid)
		}
	}
	if err := errors.Join(again.Stop(), c.killChildren()); err != nil { // waits for the zombies
		t.Error(err)
	}
}

func TestStartIsInterrupted(t *testing.T) {
	cfg := fakeConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Progress = func(what string) {
		if strings.HasPrefix(what, "waiting for the metadata") {
			cancel()
		}
	}
	cfg.connect = func([]string) (control, error) { return &fakeControl{dir: "/nowhere"}, nil }
	if _, err := Start(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if left := running(t, cfg.Dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

func TestPIDFileOfAnother(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.pid")
	for _, content := range []string{"", "0", "-1", "nonsense", "1", strconv.Itoa(os.Getpid())} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if pid, alive := pidOf(file); alive {
			t.Errorf("%q: process %d was taken for the role", content, pid)
		}
	}
}

// TestPortsAreKept: nobody is given a role's port as long as the cluster runs,
// whether the role runs or not; the role listens there again.
func TestPortsAreKept(t *testing.T) {
	cfg := fakeConfig(t)
	cfg.NBD = nbdclient.Addr{Network: "tcp", Address: "127.0.0.1:0"}
	c := mustStart(t, cfg)
	defer c.Stop()
	if len(c.ports) != 2*3+3+2 { // of nodes, servers, the client's admin address and NBD
		t.Errorf("%d ports are kept", len(c.ports))
	}
	address := c.nbd.Address
	// Who wants a port for itself alone is refused while others know it.
	taken := func() bool {
		alone := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) (err error) {
			cerr := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) })
			return errors.Join(err, cerr)
		}}
		l, err := alone.Listen(t.Context(), "tcp", address)
		if err == nil {
			l.Close()
		}
		return errors.Is(err, syscall.EADDRINUSE)
	}
	for range 3 {
		if err := c.Kill(clientID); err != nil {
			t.Fatal(err)
		}
		if !taken() {
			t.Fatal("the port of a role that was killed is free")
		}
		if err := c.Restart(clientID); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client listens where it was", func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if len(c.ports) != 0 {
		t.Error("ports are kept after Stop")
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("a\nb\nc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Tail(path, 2); got != "  b\n  c" {
		t.Errorf("got %q", got)
	}
	if got := Tail(path+"x", 2); !strings.Contains(got, "no such file") {
		t.Errorf("got %q", got)
	}
}

// TestFronts: roles are told the addresses of proxies, cluster.json the true ones.
func TestFronts(t *testing.T) {
	cfg := fakeConfig(t)
	fronts := map[string]string{}
	var mu sync.Mutex
	cfg.Front = func(role, address string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		fronts[address] = role
		return "front-of-" + address, nil
	}
	cfg.MetaDir = func(id string) string { return "/nowhere/" + id }
	c := mustStart(t, cfg)
	defer c.Stop()
	f := c.File()
	if len(fronts) != 2*3+3 {
		t.Errorf("%d fronts: %v", len(fronts), fronts)
	}
	for _, s := range f.Servers {
		if fronts[s.Addr] != s.ID || argOf(s.Argv, "--listen") != s.Addr || argOf(s.Argv, "--advertise") != "front-of-"+s.Addr {
			t.Errorf("%+v", s)
		}
	}
	for i, m := range f.Meta {
		api, raft := argOf(m.Argv, "--api"), argOf(m.Argv, "--raft")
		if m.API != "http://"+api || f.MetaURLs[i] != m.API || argOf(m.Argv, "--api-advertise") != "front-of-"+api ||
			argOf(m.Argv, "--raft-advertise") != "front-of-"+raft || argOf(m.Argv, "--dir") != "/nowhere/"+m.ID {
			t.Errorf("%+v", m)
		}
		if !strings.Contains(argOf(f.Client.Argv, "--meta"), "http://front-of-"+api) {
			t.Errorf("the client asks %s", argOf(f.Client.Argv, "--meta"))
		}
	}
	cfg = fakeConfig(t)
	cfg.Front = func(string, string) (string, error) { return "", errors.New("no more proxies") }
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no more proxies") {
		t.Errorf("without fronts: %v", err)
	}
}

// TestEnded: a process has ended when its parent need only wait for it.
func TestEnded(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if Ended(pid) {
		t.Error("it has just begun")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is a zombie", func() bool { return Ended(pid) })
	if err := cmd.Wait(); err == nil {
		t.Error("killed, and no error")
	}
	if !Ended(pid) {
		t.Error("waited for, and not ended")
	}
}
