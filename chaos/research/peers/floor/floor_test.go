package floor

import (
	"bytes"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"dmps/internal/nbdclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen serves f on a free port until the test ends.
func listen(t *testing.T, f func(net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// With one member and no redundancy a relay is a block device; with more the
// bytes that a store gets are what dmps would send.
func TestRelay(t *testing.T) {
	const size = 1 << 20
	for _, g := range []struct{ k, m int }{{1, 0}, {1, 2}, {4, 2}} {
		var stores []string
		for range g.k + g.m {
			stores = append(stores, listen(t, func(l net.Listener) error { return Store(l, size) }))
		}
		addr := listen(t, func(l net.Listener) error { return Relay(l, Config{Size: size, K: g.k, Stores: stores}) })
		c, err := nbdclient.Dial(t.Context(), nbdclient.Addr{Network: "tcp", Address: addr})
		if err != nil {
			t.Fatal(err)
		}
		if c.Size() != size {
			t.Errorf("size %d", c.Size())
		}
		r := rand.NewChaCha8([32]byte{1})
		for off := int64(0); off < size; off += maxRequest {
			want, got := make([]byte, maxRequest), make([]byte, maxRequest)
			r.Read(want)
			if _, err := c.WriteAt(want, off); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ReadAt(got, off); err != nil {
				t.Fatal(err)
			}
			if g.k == 1 && !bytes.Equal(want, got) {
				t.Fatalf("%d+%d: other bytes at %d", g.k, g.m, off)
			}
		}
		if _, err := c.ReadAt(make([]byte, page), size-page); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
