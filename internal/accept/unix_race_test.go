package accept

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Of several that find a socket that nobody listens on, one replaces it: the others see that
// it is in use, and do not take the new one for the old.
func TestUnixSocketIsReplacedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for round := range 200 {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := l.Close(); err != nil { // as of a process that was killed
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var have []net.Listener
		for range 6 {
			wg.Go(func() {
				if l, err := listenUnix(t.Context(), path); err == nil {
					mu.Lock()
					have = append(have, l)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		n := len(have)
		for _, l := range have {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		if n != 1 {
			t.Fatalf("round %d: %d listen at one path", round, n)
		}
	}
}

// Only a socket that nobody listens on is removed.
func TestRemoveStale(t *testing.T) {
	at := t.TempDir()
	l, err := listenUnix(t.Context(), filepath.Join(at, "living"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(filepath.Join(at, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	left, err := net.Listen("unix", filepath.Join(at, "left"))
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{"living": true, "file": true, "left": false} {
		path := filepath.Join(at, name)
		if err := RemoveStale(t.Context(), path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}
