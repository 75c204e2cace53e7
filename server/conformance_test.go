package server

import (
	"context"
	"net"
	"sync"
	"testing"

	"dmps/transport"
	"dmps/transport/mem"
	"dmps/transport/tcp"
	"dmps/transport/transporttest"
)

func TestConformanceMem(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Medium {
		s := start(t, Config{Cluster: "c", Window: 16})
		var n mem.Network
		h := n.Serve("a", s)
		t.Cleanup(h.Close)
		return transporttest.Medium{
			NewDialer: func() transport.Dialer { return n.Dialer() },
			Addr:      "a", Cluster: "c", Incarnation: uint64(s.Incarnation()), Stall: h.Stall,
		}
	})
}

func TestConformanceTCP(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Medium {
		s := start(t, Config{Cluster: "c", Window: 16})
		g := &gate{Backend: s}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		front := tcp.Server{Backend: g, Log: s.c.Log}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := front.Serve(l); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(func() {
			if err := front.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
		})
		return transporttest.Medium{
			NewDialer: func() transport.Dialer { return new(tcp.Dialer) },
			Addr:      "tcp://" + l.Addr().String(), Cluster: "c", Incarnation: uint64(s.Incarnation()),
			Stall: g.stall, Allocs: true,
		}
	})
}

// gate is a Backend that can be frozen.
type gate struct {
	transport.Backend
	mu sync.RWMutex
}

func (g *gate) stall(on bool) {
	if on {
		g.mu.Lock()
	} else {
		g.mu.Unlock()
	}
}

func (g *gate) Open(ctx context.Context, h transport.Hello, stop func(error)) (transport.Session, transport.Welcome, error) {
	s, w, err := g.Backend.Open(ctx, h, stop)
	return &gated{s, g}, w, err
}

type gated struct {
	transport.Session
	g *gate
}

func (s *gated) BeginWrite(io *transport.SlotIO) error {
	s.g.mu.RLock()
	defer s.g.mu.RUnlock()
	return s.Session.BeginWrite(io)
}

func (s *gated) BeginRead(io *transport.SlotIO) error {
	s.g.mu.RLock()
	defer s.g.mu.RUnlock()
	return s.Session.BeginRead(io)
}
