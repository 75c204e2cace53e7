package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dmps/client"
)

// ownSockets keeps the sockets of a test in a folder of its own, and gives it.
func ownSockets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("RUNTIME_DIRECTORY", dir)
	return dir
}

// A client's admin address is a socket of its user alone, answers there, and says more than
// the address of its metrics.
func TestAdminSocket(t *testing.T) {
	dir := ownSockets(t)
	log := (&app{err: &bytes.Buffer{}}).logger()
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "admin-v-1.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false) // of one that was killed
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	l, base, err := listenAdmin(t.Context(), ownSocket, "v")
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(base, "unix://")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 || filepath.Dir(path) != dir {
		t.Fatalf("%s: %v, %v", path, st, err)
	}
	if _, err := os.Stat(left.Addr().String()); !os.IsNotExist(err) {
		t.Errorf("a socket that nobody listens on is left: %v", err)
	}
	adm := newAdmin(false, log)
	adm.answer("/status", func() any { return adminStatus{Volume: "v", Report: client.Report{State: client.StateHealthy}} })
	adm.mux.HandleFunc("POST /detach", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	adm.health(func() error { return nil })
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop, stopOutside := adm.serve(l, log), adm.serveMetrics(outside, log)
	defer stopOutside()
	defer http.DefaultClient.CloseIdleConnections()
	if about, err := fetchAdminStatus(t.Context(), base); err != nil || about.Volume != "v" {
		t.Errorf("%+v, %v", about, err)
	}
	if r, err := post(t.Context(), base, "/detach", nil, livePatience); err != nil || r.code != http.StatusAccepted {
		t.Errorf("an order: %v, %v", r, err)
	}
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/status": 404, "/detach": 404} {
		res, err := http.Get("http://" + outside.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		if err != nil || res.Body.Close() != nil || res.StatusCode != want {
			t.Errorf("%s is answered with %s, %v", path, res.Status, err)
		}
	}
	stop()
	if _, err := fetchAdminStatus(t.Context(), base); err == nil || !strings.Contains(err.Error(), "host") {
		t.Errorf("nobody is there: %v", err)
	}
}

// The folder of sockets in a place where everybody writes must be this user's.
func TestSocketFolderOfSomebodyElse(t *testing.T) {
	at := t.TempDir()
	if err := os.Mkdir(filepath.Join(at, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(dir string) error{
		"mine":     func(string) error { return nil },
		"theirs":   func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 4711, 4711)) },
		"writable": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)) },
		"a link":   func(dir string) error { return os.Symlink(filepath.Join(at, "real"), dir) },
		"a file":   func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
	} {
		if name == "theirs" && os.Geteuid() != 0 {
			continue // only root gives away
		}
		dir := filepath.Join(at, name)
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if err := ownFolder(dir); (err == nil) != (name == "mine") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if os.Geteuid() == 0 {
		return // root has /run/dmps
	}
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("XDG_RUNTIME_DIR", at)
	if dir, err := socketDir(); err != nil || dir != filepath.Join(at, "dmps") {
		t.Errorf("%s, %v", dir, err)
	}
}
