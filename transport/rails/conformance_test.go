package rails_test

import (
	"log/slog"
	"testing"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/mem"
	"dmps/transport/rails"
	"dmps/transport/transporttest"
)

func TestConformanceTCP(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Medium {
		r := start(t, server.Config{Window: 8}, false)
		return transporttest.Medium{
			NewDialer: func() transport.Dialer { return newDialer() },
			Addr:      r.addr, Cluster: "c", Incarnation: uint64(r.Incarnation()), Stall: r.gate.Stall, Allocs: true,
		}
	})
}

func TestConformanceMem(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Medium {
		r := start(t, server.Config{Window: 8}, false)
		var n mem.Network
		a, b := n.Serve("a", &r.gate), n.Serve("b", &r.gate)
		t.Cleanup(a.Close)
		t.Cleanup(b.Close)
		return transporttest.Medium{
			NewDialer: func() transport.Dialer {
				return &dialer{rails.Dialer{Dialer: n.Dialer(), Log: slog.New(slog.DiscardHandler)}}
			},
			Addr: "a,b", Cluster: "c", Incarnation: uint64(r.Incarnation()),
			Stall: func(on bool) { a.Stall(on); b.Stall(on) },
		}
	})
}
