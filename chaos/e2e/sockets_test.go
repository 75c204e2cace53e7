package e2e

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/e2e/rig"
	"dmps/internal/nbdclient"
)

// What attach opens when nothing is said: sockets that only its user reaches. Metrics, where
// they are asked for, say nothing else and take no orders.
func TestDefaultSockets(t *testing.T) {
	c := start(t, small)
	dir := t.TempDir()
	if r := c.dmps("volume", "create", "own", "--size", "64MiB", "--redundancy", "mirror:2", "--failure-domain", "server"); r.code != 0 {
		t.Fatalf("create: %v", r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	metrics := l.Addr().String()
	must(t, l.Close())
	p, err := rig.Start(rig.Spec{
		Name: "own", Log: filepath.Join(dir, "log"), Env: []string{"DMPS_META=" + c.MetaURLs(), "RUNTIME_DIRECTORY=" + dir},
		Argv: []string{dmpsBin, "attach", "own", "--allow-swappable", "--metrics", metrics},
	})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("attach:\n%s", rig.Tail(p.Log, 25))
		}
		if err := p.Stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*.sock"))
		if err != nil || len(left) > 0 {
			t.Errorf("it left %v, %v", left, err)
		}
	})
	ctx := testCtx(t)
	var conn *nbdclient.Conn
	must(t, p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, nbdclient.Addr{Network: "unix", Address: filepath.Join(dir, "nbd-own.sock")})
		return err
	}))
	bound(t, conn)
	if _, err := conn.WriteAt(randomPage(1), 0); err != nil {
		t.Error(err)
	}
	sockets, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	must(t, err)
	if len(sockets) != 2 {
		t.Errorf("sockets: %v", sockets)
	}
	for _, s := range sockets {
		if st, err := os.Stat(s); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", s, st.Mode(), err)
		}
	}
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/status": 404} {
		res, err := http.Get("http://" + metrics + path)
		must(t, err)
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.Body.Close() != nil || res.StatusCode != want {
			t.Errorf("%s: %s, %v", path, res.Status, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	// Commands find it through the metadata.
	if r := c.dmps("scrub", "own"); r.code != 0 || !strings.Contains(r.stdout+r.stderr, "own") {
		t.Errorf("scrub: %v", r)
	}
	must(t, conn.Close())
}
