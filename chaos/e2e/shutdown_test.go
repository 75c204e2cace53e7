package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// SIGTERM to dev ends every process, frees every port, and says with its exit
// code that all went well; frozen and dead roles or not, load or not.
func TestDevLeavesNothingBehind(t *testing.T) {
	for name, before := range map[string]func(c *cluster) error{
		"idle":       func(*cluster) error { return nil },
		"under load": func(c *cluster) error { c.startLoad(); return nil },
		"hurt": func(c *cluster) error {
			if err := c.Kill(c.Servers[0]); err != nil {
				return err
			}
			return c.Freeze(c.Servers[1])
		},
		"without client": func(c *cluster) error { return c.Kill(c.Client) },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, threeMeta, small)
			must(t, before(c))
			tree, err := rig.Tree(c.PID())
			must(t, err)
			if len(tree) < 2 {
				t.Fatalf("dev has no children: %v", tree)
			}
			must(t, syscall.Kill(c.PID(), syscall.SIGTERM))
			begin := time.Now()
			select {
			case <-c.Done():
				t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
			case <-time.After(rig.StopGrace):
				t.Fatalf("dev lives %v after SIGTERM", rig.StopGrace)
			}
			for _, pid := range append(tree, c.pids()...) {
				if rig.Alive(pid) {
					t.Errorf("process %d is left behind", pid)
				}
			}
			if _, err := os.Stat(filepath.Join(c.Config.Dir, "cluster.json")); !os.IsNotExist(err) {
				t.Errorf("cluster.json says that it serves (%v)", err)
			}
			sock := strings.TrimPrefix(c.Config.NBD, "unix:")
			if conn, err := net.Dial("unix", sock); err == nil {
				conn.Close()
				t.Error("somebody still listens on the NBD socket")
			}
		})
	}
}

// SIGTERM to the client: what was answered is there for the next one.
func TestClientEndsInOrder(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	must(t, syscall.Kill(c.Client.PID, syscall.SIGTERM))
	for begin := time.Now(); rig.Alive(c.Client.PID); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > commandLimit {
			t.Fatalf("the client lives %v after SIGTERM", commandLimit)
		}
	}
	if r := ld.Stop(); len(r.Violations) > 0 {
		t.Errorf("wrong data before the end: %v", r.Err())
	}
	ld.check(c.reconnect())
}

// A second dev in the same folder is refused, and the first does not notice.
func TestSecondDevInTheSameFolder(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	refused(t, c.dmps("dev", "--dir", c.Config.Dir, "--nbd", "127.0.0.1:0"), c.Config.Dir[1:])
	ld.more(1000)
	ld.flawless()
}
