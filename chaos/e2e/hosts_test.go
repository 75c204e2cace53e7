package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/chaos/netns"
	"dmps/internal/nbdclient"
	"dmps/raid"
)

// hosts is a cluster of which each process has a host of its own: m1, s1 and so on,
// and c1 and c2 for clients. The volume is of 8 MiB.
type hosts struct {
	t     *testing.T
	net   *netns.Net
	dir   string
	meta  string
	procs []*rig.Process
}

// hostLease is shorter than usual, so that a test can wait for its end.
const hostLease = 4 * time.Second

// needHosts skips the test where there are no network namespaces, or fails it where
// nothing may be skipped: by root who has the programs.
func needHosts(t *testing.T) {
	t.Helper()
	if dmpsBin == "" {
		t.Skip("end-to-end tests take minutes: run them with make e2e or DMPS_E2E=1")
	}
	err := netns.Possible()
	if err == nil {
		return
	}
	if _, missing := exec.LookPath("ip"); required && missing == nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	t.Skip(err)
}

func startHosts(t *testing.T, name string, g raid.Geometry, servers int) *hosts {
	t.Helper()
	needHosts(t)
	dir, err := os.MkdirTemp("", "e2e-")
	must(t, err)
	names := []string{"m1", "c1", "c2"}
	for i := range servers {
		names = append(names, fmt.Sprint("s", i+1))
	}
	n, err := netns.New(name, names...)
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	c := &hosts{t: t, net: n, dir: dir}
	t.Cleanup(c.close)
	m := c.host("m1")
	c.meta = "http://" + m.IP + ":7200"
	c.start("m1", "m1", "meta", "--id", "m1", "--dir", filepath.Join(dir, "meta"), "--api", m.IP+":7200", "--raft", m.IP+":7201",
		"--lease", hostLease.String(), "--insecure-network")
	for i := range servers {
		s := fmt.Sprint("s", i+1)
		c.start(s, s, "server", "--id", s, "--memory", "64MiB", "--listen", c.host(s).IP+":7301", "--meta", c.meta,
			"--insecure-network", "--allow-swappable", "--low-memory", "0", "--pressure", "0")
	}
	c.await("the servers", func() error {
		var s status
		if r := c.dmps("status", "--output", "json"); r.code != healthy || json.Unmarshal([]byte(r.stdout), &s) != nil || len(s.Servers) != servers {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	if r := c.dmps("volume", "create", "v", "--size", "8MiB", "--redundancy", g.String(), "--failure-domain", "server"); r.code != 0 {
		t.Fatal(r)
	}
	return c
}

// close ends everything, and removes it.
func (c *hosts) close() {
	for _, p := range c.procs {
		_ = p.Signal(syscall.SIGKILL) // it may have ended
	}
	err := c.net.Close()
	for _, p := range c.procs {
		<-p.Done()
		if c.t.Failed() && !strings.HasPrefix(p.Name, "s") {
			c.t.Logf("%s:\n%s", p.Name, rig.Tail(p.Log, 15))
		}
	}
	if err := errors.Join(err, os.RemoveAll(c.dir)); err != nil {
		c.t.Error(err)
	}
}

func (c *hosts) host(name string) *netns.Host { return c.net.Hosts(name)[0] }

// start starts a role on a host.
func (c *hosts) start(name, host string, args ...string) *rig.Process {
	c.t.Helper()
	p, err := rig.Start(rig.Spec{
		Name: name, Log: filepath.Join(c.dir, fmt.Sprintf("%s-%d.log", name, len(c.procs))),
		Argv: c.host(host).Argv(append([]string{dmpsBin}, args...)...),
	})
	must(c.t, err)
	c.procs = append(c.procs, p)
	return p
}

// dmps runs a command on the metadata node's host.
func (c *hosts) dmps(args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), commandLimit)
	defer cancel()
	argv := c.host("m1").Argv(append([]string{dmpsBin}, args...)...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DMPS_META="+c.meta)
	cmd.WaitDelay = time.Second
	return command(c.t, cmd)
}

// await tries something until it works.
func (c *hosts) await(what string, try func() error) {
	c.t.Helper()
	err := try()
	for begin := time.Now(); err != nil; err = try() {
		if time.Since(begin) > commandLimit {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *hosts) awaitHealthy() {
	c.t.Helper()
	c.await("the volume is not healthy", func() error {
		if r := c.dmps("status"); r.code != healthy {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// attach starts a client on a host, and waits until it serves.
func (c *hosts) attach(host string, args ...string) (*rig.Process, *nbdclient.Conn) {
	c.t.Helper()
	sock := filepath.Join(c.dir, fmt.Sprintf("%s-%d.sock", host, len(c.procs)))
	p := c.start(host, host, slices.Concat([]string{
		"attach", "v", "--nbd", "unix:" + sock, "--holder", host, "--meta", c.meta, "--insecure-network", "--allow-swappable",
	}, args)...)
	ctx, cancel := context.WithTimeout(c.t.Context(), commandLimit)
	defer cancel()
	var conn *nbdclient.Conn
	must(c.t, p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, nbdclient.Addr{Network: "unix", Address: sock, Export: "v"})
		return err
	}))
	bound(c.t, conn)
	return p, conn
}

// counters are those that the client has reported.
func (c *hosts) counters() map[string]int64 {
	c.t.Helper()
	var s struct {
		Volumes []struct {
			Report struct {
				Counters map[string]int64
			}
		}
	}
	r := c.dmps("status", "--output", "json")
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || len(s.Volumes) != 1 {
		c.t.Fatalf("%v: %v", err, r)
	}
	return s.Volumes[0].Report.Counters
}
