package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/internal/nbdclient"
)

// A first attach that fails half way, or is interrupted, leaves a volume that the
// next one opens, and that holds what was written then.
func TestFirstAttachFails(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.ServerMemory = "384MiB" })
	dir := c.Config.Dir
	for _, scheme := range []string{"rs:4+2", "mirror:2", "none"} {
		for _, after := range []time.Duration{0, 20 * time.Millisecond, 60 * time.Millisecond, 200 * time.Millisecond} {
			t.Run(fmt.Sprint(scheme, " ", after), func(t *testing.T) {
				name := strings.NewReplacer(":", "", "+", "").Replace(fmt.Sprint(scheme, after.Milliseconds()))
				if r := c.dmps("volume", "create", name, "--size", "16MiB", "--failure-domain", "server", "--redundancy", scheme); r.code != 0 {
					t.Fatal(r)
				}
				sock := filepath.Join(dir, name)
				attach := []string{"attach", name, "--allow-swappable", "--admin", "", "--nbd", "unix:" + sock}
				if after == 0 {
					refused(t, c.dmps(append(attach, "--arena", "1000TiB")...), "opening volume")
				} else {
					cmd := c.Command(t.Context(), attach...)
					must(t, cmd.Start())
					time.Sleep(after) // wherever that catches it
					must(t, cmd.Process.Signal(syscall.SIGINT))
					_ = cmd.Wait() // how it ends depends on where it was
				}
				addr, err := nbdclient.ParseURI("nbd+unix:///" + name + "?socket=" + sock)
				must(t, err)
				page := randomPage(1)
				for _, first := range []bool{true, false} {
					c.attachOnce(t, attach, func(conn *nbdclient.Conn) {
						got := make([]byte, len(page))
						if first {
							_, err = conn.WriteAt(page, 0)
						} else if _, err = conn.ReadAt(got, 0); err == nil && !bytes.Equal(got, page) {
							t.Error("what was written is not there")
						}
						must(t, err)
					}, addr)
				}
				if r := c.dmps("volume", "delete", name, "--yes"); r.code != 0 {
					t.Error(r)
				}
			})
		}
	}
}

// attachOnce attaches a volume, which must work, and ends that in order.
func (c *cluster) attachOnce(t *testing.T, attach []string, use func(*nbdclient.Conn), addr nbdclient.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testCtx(t), commandLimit)
	defer cancel()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer log.Close()
	cmd := c.Command(ctx, attach...)
	cmd.Stderr = log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var conn *nbdclient.Conn
	for conn == nil {
		if conn, err = nbdclient.Dial(ctx, addr); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("attach: %v\n%s", err, rig.Tail(log.Name(), 20))
		case <-time.After(5 * time.Millisecond):
		}
	}
	use(conn)
	must(t, conn.Close())
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := <-ended; err != nil {
		t.Fatalf("attach: %v\n%s", err, rig.Tail(log.Name(), 20))
	}
	if said := rig.Tail(log.Name(), 1000); strings.Contains(said, "counts as empty") {
		t.Errorf("chunks that were never made count as lost:\n%s", said)
	}
}
