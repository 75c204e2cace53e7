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
// that then rebuild from each other, by one-sided reads.
func TestRebuildFabric(t *testing.T) {
	if err := fabric.Available("tcp", "127.0.0.1"); err != nil {
		t.Skip(err)
	}
	var peers []*fabric.Dialer
	transporttest.RunRebuild(t, func(t *testing.T, n int) transporttest.Group {
		g := transporttest.Group{Cluster: "c", NewDialer: func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: -1} }}
		for i := range n {
			peer := &fabric.Dialer{Strict: true}
			peers = append(peers, peer)
			s := start(t, Config{
				ID: raid.ServerID('a' + rune(i)), Cluster: "c", Peers: peer, Listen: "127.0.0.1:0",
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
	var n fabric.Counts
	for _, p := range peers {
		c := p.Counts()
		n.OneSided, n.Linked = n.OneSided+c.OneSided, n.Linked+c.Linked
	}
	t.Logf("rebuilds read %d times one-sided, %d times over a link", n.OneSided, n.Linked)
	if n.OneSided < 1000 || n.OneSided < n.Linked {
		t.Errorf("%+v: the rebuilds did not read one-sided", n)
	}
}
