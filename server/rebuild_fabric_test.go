//go:build fabric && cgo

package server

import (
	"testing"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/transporttest"
)

// The clients' pages are written one-sidedly, behind the back of the servers
// that then rebuild from each other.
func TestRebuildFabric(t *testing.T) {
	if err := fabric.Available("tcp", "127.0.0.1"); err != nil {
		t.Skip(err)
	}
	transporttest.RunRebuild(t, func(t *testing.T, n int) transporttest.Group {
		g := transporttest.Group{Cluster: "c", NewDialer: func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: -1} }}
		for i := range n {
			s := start(t, Config{
				ID: raid.ServerID('a' + rune(i)), Cluster: "c", Peers: &fabric.Dialer{Strict: true}, Listen: "127.0.0.1:0",
				Scheme: "fabric+tcp", Front: func(b transport.Backend) Front { return &fabric.Server{Backend: b, Providers: []string{"tcp"}} },
			})
			g.Servers = append(g.Servers, transporttest.Peer{
				Addr: s.Addr(), Incarnation: uint64(s.Incarnation()), Damage: s.damage,
				Kill: func() {
					if err := s.net.Close(); err != nil {
						t.Error(err)
					}
				},
			})
		}
		return g
	})
}
