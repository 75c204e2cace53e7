package media

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
)

func TestDialer(t *testing.T) {
	var d Dialer
	if err := d.Register(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"tcp://127.0.0.1:1":        "refused",
		"udp://127.0.0.1:1":        "tcp://host:port",
		"fabric+x://127.0.0.1:1":   "none of tcp, shm, verbs, efa",
		"fabric+tcp://127.0.0.1:1": "refused",
	} {
		if _, _, err := d.Dial(t.Context(), addr, transport.Hello{}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", addr, err, want)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestFallback: a server that has TCP alone is served over TCP, whatever its
// address asks for, and the session says so.
func TestFallback(t *testing.T) {
	s, err := server.New(server.Config{ID: "a", Cluster: "c", Memory: 1 << 20, Listen: "127.0.0.1:0", AllowSwappable: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	d := Dialer{Log: slog.New(slog.DiscardHandler)}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	for epoch, addr := range []string{s.Addr(), "fabric+" + s.Addr()} {
		c, _, err := d.Dial(t.Context(), addr, transport.Hello{Cluster: "c", Volume: 1, Epoch: uint64(epoch + 1), Client: "test"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.(transport.Carrier).Carrier(); got != "tcp" {
			t.Errorf("%s: pages go by %s", addr, got)
		}
		if err := c.OpenChunk(t.Context(), 1, transport.ChunkSpec{Slots: 4, HeaderBytes: raid.HeaderSize}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
