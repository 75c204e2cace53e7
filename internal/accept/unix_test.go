package accept

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A socket is its user's alone, also where files are made for everybody. One that was left
// is replaced, one that is in use is not.
func TestUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	defer syscall.Umask(syscall.Umask(0))
	for round := range 2 {
		l, err := Listen(t.Context(), "unix", path, nil)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != socketMode {
			t.Fatalf("%v, %v", st.Mode(), err)
		}
		if stale(path) {
			t.Error("it is in use")
		}
		if _, err := Listen(t.Context(), "unix", path, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a socket in use is taken: %v", err)
		}
		if round == 0 { // killed: the file stays
			l.(*Listener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if left := stale(path); left != (round == 0) {
			t.Errorf("round %d: left: %v", round, left)
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), "unix", path, nil); err == nil {
		t.Error("a file of somebody is replaced")
	}
}
