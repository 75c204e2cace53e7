package server

import (
	"net"
	"sync"
	"testing"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/mem"
	"dmps/transport/tcp"
	"dmps/transport/transporttest"
)

// damage flips a byte of a stored page or of its header.
func (s *Server) damage(chunk uint64, slot uint32, header bool) {
	c := s.lookup(raid.ChunkID(chunk))
	c.mu.Lock()
	defer c.mu.Unlock()
	if header {
		c.head(slot)[17] ^= 0x40
		return
	}
	c.page(slot)[1234] ^= 0x40
}

func TestRebuildMem(t *testing.T) {
	transporttest.RunRebuild(t, func(t *testing.T, n int) transporttest.Group {
		network := new(mem.Network)
		g := transporttest.Group{Cluster: "c", NewDialer: func() transport.Dialer { return network.Dialer() }}
		for i := range n {
			s := start(t, Config{ID: raid.ServerID('a' + rune(i)), Cluster: "c", Peers: network.Dialer()})
			addr := string(s.c.ID)
			h := network.Serve(addr, s)
			t.Cleanup(h.Close)
			g.Servers = append(g.Servers, transporttest.Peer{
				Addr: addr, Incarnation: uint64(s.Incarnation()), Kill: func() { h.Down(true) }, Damage: s.damage,
			})
		}
		return g
	})
}

func TestRebuildTCP(t *testing.T) {
	transporttest.RunRebuild(t, func(t *testing.T, n int) transporttest.Group {
		g := transporttest.Group{Cluster: "c", NewDialer: func() transport.Dialer { return new(tcp.Dialer) }}
		for i := range n {
			s := start(t, Config{ID: raid.ServerID('a' + rune(i)), Cluster: "c"})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			front := tcp.Server{Backend: s, Log: s.c.Log}
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := front.Serve(l); err != nil {
					t.Error(err)
				}
			})
			end := func() {
				if err := front.Close(); err != nil {
					t.Error(err)
				}
				wg.Wait()
			}
			t.Cleanup(end)
			g.Servers = append(g.Servers, transporttest.Peer{
				Addr: "tcp://" + l.Addr().String(), Incarnation: uint64(s.Incarnation()), Kill: end, Damage: s.damage,
			})
		}
		return g
	})
}
