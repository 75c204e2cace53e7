package accept

import (
	"net"
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
