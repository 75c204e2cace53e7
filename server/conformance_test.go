package server

import (
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
		g := &transporttest.Gate{Backend: s}
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
			Stall: g.Stall, Allocs: true,
		}
	})
}
