package nbd_test

import (
	"net"
	"testing"
	"time"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

// TestStaleWrites: a connection that is neither closed nor read, as when its network
// is cut, leaves requests in the socket. When they have lain there for longer than
// the patience, nothing of them is carried out any more: its client may have sent
// them again elsewhere, and newer ones after them.
func TestStaleWrites(t *testing.T) {
	for what, limits := range map[string]struct{ depth, arena int }{
		"all that may be in flight": {depth: 4, arena: 512},
		"all page buffers":          {depth: 1024, arena: 4},
	} {
		t.Run(what, func(t *testing.T) {
			dev := devicetest.New(t, devicetest.NewDisk(1<<20), limits.arena, false)
			s, uri := serve(t, nbd.Config{Exports: exports(dev), Depth: limits.depth, Patience: 200 * time.Millisecond, StallTimeout: -1})
			dev.Pause(true)
			old := negotiated(t, uri)
			var b []byte
			for i := range uint64(100) {
				b = append(nbdtest.Request(b, nbdtest.Write, 0, i, i*4096, 4096), fill(4096, 1)...)
			}
			go old.Write(b) // stands until the connection is given up, perhaps
			dev.WaitFor(func(st devicetest.State) bool { return st.Waiting == 4 })
			if n, err := old.Read(make([]byte, 1)); err == nil {
				t.Fatalf("%d bytes of a reply, before anything was done", n)
			} // the connection was given up
			dev.Pause(false)
			dev.WaitFor(func(st devicetest.State) bool { return st.OnIdle == 0 && st.FreePages == limits.arena })
			for s.Conns() > 0 {
				time.Sleep(time.Millisecond)
			}
			landed := 0
			for i := range int64(100) {
				if dev.Holds(i*4096, fill(4096, 1)) {
					landed++
				}
			}
			if landed != 4 {
				t.Errorf("%d writes landed; 4 were under way when the client may have given up", landed)
			}
		})
	}
}

// TestSlowIsNotStale: requests that wait for others, one after another, and are each
// begun within the patience, are all carried out; so are those of a client that is
// slow to send them.
func TestSlowIsNotStale(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 512, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev), Depth: 2, Patience: 3 * time.Second, StallTimeout: -1})
	dev.SetFault(func(*client.Op) error { dev.Unlocked(func() { time.Sleep(20 * time.Millisecond) }); return nil })
	c := connect(t, uri, nbdtest.Options{})
	for begin := time.Now(); time.Since(begin) < 4*time.Second; {
		var replies []<-chan nbdtest.Reply
		for i := range 8 {
			replies = append(replies, c.Go(nbdtest.Write, 0, uint64(i*4096), 4096, fill(4096, byte(i))))
		}
		for _, r := range replies {
			ok(t, <-r)
		}
	}
	page := fill(4096, 3)
	half := nbdtest.Request(nil, nbdtest.Write, 0, 99, 0, 4096)
	slow := negotiated(t, uri)
	for _, part := range [][]byte{half[:10], half[10:], page[:100]} {
		if _, err := slow.Write(part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1200 * time.Millisecond) // beyond the patience, all in all
	}
	if _, err := slow.Write(page[100:]); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 16)); err != nil {
		t.Errorf("a slow client got no reply: %v", err)
	}
	if !dev.Holds(0, page) {
		t.Error("a slow client's write did not land")
	}
}

// TestVanishedPeer: the system ends TCP connections whose peer is gone.
func TestVanishedPeer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	alive, idle, unacked := nbd.WatchPeer(t, nc, 90*time.Second)
	if !alive || idle != 15 || unacked != 90_000 {
		t.Errorf("keep-alive %v after %d s, replies unacknowledged for %d ms", alive, idle, unacked)
	}
}
