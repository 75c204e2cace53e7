package rails_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/rails"
	"dmps/transport/tcp"
	"dmps/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a memory server at two addresses, each behind a cable.
type rig struct {
	*server.Server
	addr string
	gate transporttest.Gate
	link []*cable
}

// front is what serves a rig by a medium: its addresses are scheme://host:port.
type front interface {
	Serve(net.Listener) error
	Close() error
}

// start starts one, served over TCP. cables says whether there are cables, which
// copy.
func start(t testing.TB, c server.Config, cables bool) *rig {
	t.Helper()
	return startBehind(t, c, cables, "tcp", func(b transport.Backend, log *slog.Logger) front {
		return &tcp.Server{Backend: b, Log: log}
	})
}

func startBehind(t testing.TB, c server.Config, cables bool, scheme string, newFront func(transport.Backend, *slog.Logger) front) *rig {
	t.Helper()
	c.ID, c.Cluster, c.Log = "a", "c", slog.New(slog.DiscardHandler)
	if c.Memory == 0 {
		c.Memory = 16 << 20
	}
	s, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Server: s}
	r.gate.Backend = s
	front := newFront(&r.gate, c.Log)
	var wg sync.WaitGroup
	var addrs []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := front.Serve(l); err != nil {
				t.Error(err)
			}
		})
		at := l.Addr().String()
		if cables {
			k := newCable(t, at)
			r.link = append(r.link, k)
			at = k.l.Addr().String()
		}
		addrs = append(addrs, scheme+"://"+at)
	}
	if r.addr, err = rails.Join(addrs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, k := range r.link {
			k.close()
		}
		if err := front.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// dialer returns when all rails are up: to the tests the window is all of theirs.
type dialer struct{ rails.Dialer }

func newDialer() *dialer {
	return &dialer{rails.Dialer{Dialer: new(tcp.Dialer), Log: slog.New(slog.DiscardHandler)}}
}

func (d *dialer) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
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

func allUp(ctx context.Context, c transport.Conn) error {
	r, ok := c.(transport.Railed)
	for ok {
		if up, all := r.Rails(); up == all {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Done():
			return c.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}
