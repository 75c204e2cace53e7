//go:build fabric && cgo

package rails_test

import (
	"context"
	"log/slog"
	"testing"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/media"
	"dmps/transport/transporttest"
)

// startFabric starts a server that has two addresses with one-sided transfers, each
// behind a cable for its link.
func startFabric(t *testing.T, c server.Config) *rig {
	t.Helper()
	if err := fabric.Available("tcp", "127.0.0.1"); err != nil {
		t.Skipf("no provider: %v", err)
	}
	return startBehind(t, c, true, "fabric+tcp", func(b transport.Backend, log *slog.Logger) front {
		return &fabric.Server{Backend: b, Log: log, Providers: []string{"tcp"}}
	})
}

// mediaDialer is newDialer over all media.
type mediaDialer struct{ media.Dialer }

func (d *mediaDialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := d.Dialer.Dial(ctx, addr, h, idle)
	if err == nil {
		if err := allUp(ctx, c); err != nil {
			_ = c.Close()
			return nil, w, err
		}
		w.Window = c.Window()
	}
	return c, w, err
}

func newMediaDialer() *mediaDialer {
	return &mediaDialer{media.Dialer{Log: slog.New(slog.DiscardHandler)}}
}

func TestConformanceFabric(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Medium {
		r := startFabric(t, server.Config{Window: 8})
		return transporttest.Medium{
			NewDialer: func() transport.Dialer { return newMediaDialer() },
			Addr:      r.addr, Cluster: "c", Incarnation: uint64(r.Incarnation()), Unverified: true,
		}
	})
}

// The links of one-sided rails are cut in turn under load.
func TestFailoverFabric(t *testing.T) {
	r := startFabric(t, server.Config{})
	mem := mapMemory(t, 1<<20)
	d := newMediaDialer()
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, _, err := d.Dial(within(t), r.addr, transport.Hello{Cluster: "c", Volume: volume, Epoch: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k := c.(transport.Carrier).Carrier(); k != "fabric+tcp" {
		t.Fatalf("carried by %s", k)
	}
	if err := c.OpenChunk(within(t), chunk, spec); err != nil {
		t.Fatal(err)
	}
	failover(t, r, c, mem, 4, false) // pages do not come by the links: to freeze these is no end
}
