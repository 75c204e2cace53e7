package nbd_test

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

// onWarn is a log that tells of its first warning.
type onWarn chan struct{}

func (w onWarn) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w onWarn) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w onWarn) WithGroup(string) slog.Handler                { return w }
func (w onWarn) Handle(context.Context, slog.Record) error {
	select {
	case w <- struct{}{}:
	default:
	}
	return nil
}

// TestStaleWrites: a connection that is neither closed nor read, as when its network
// is cut, leaves requests in the socket. When they have lain there for longer than
// the patience, nothing of them is carried out any more: its client may have sent
// them again elsewhere, and newer ones after them. A client that is still there hears
// of it, request by request: that it was the device which did not answer is not its fault.
func TestStaleWrites(t *testing.T) {
	for what, limits := range map[string]struct{ depth, arena int }{
		"all that may be in flight": {depth: 4, arena: 512},
		"all page buffers":          {depth: 1024, arena: 4},
	} {
		t.Run(what, func(t *testing.T) {
			dev := devicetest.New(t, devicetest.NewDisk(1<<20), limits.arena, false)
			said := make(chan struct{}, 1)
			s, uri := serve(t, nbd.Config{Exports: exports(dev), Depth: limits.depth, Patience: 200 * time.Millisecond, StallTimeout: -1, Log: slog.New(onWarn(said))})
			dev.Pause(true)
			old := negotiated(t, uri)
			const begun, late = 4, 20
			var b []byte
			for i := range uint64(begun + 1) { // one more than can be begun, and trims that would undo the others
				b = append(nbdtest.Request(b, nbdtest.Write, 0, i, i*4096, 4096), fill(4096, 1)...)
			}
			for i := range uint64(late) {
				b = nbdtest.Request(b, nbdtest.Trim, 0, begun+1+i, i%begun*4096, 4096)
			}
			if _, err := old.Write(b); err != nil {
				t.Fatal(err)
			}
			dev.WaitFor(func(st devicetest.State) bool { return st.Waiting == begun })
			<-said // what waits in the socket is stale by now
			if s.Conns() != 1 {
				t.Error("the connection was closed")
			}
			dev.Pause(false)
			for range begun + 1 + late {
				reply := make([]byte, 16)
				if _, err := io.ReadFull(old, reply); err != nil {
					t.Fatal(err)
				}
				i, errno := binary.BigEndian.Uint64(reply[8:]), binary.BigEndian.Uint32(reply[4:])
				if (i >= begun) != (errno == uint32(unix.EIO)) {
					t.Errorf("request %d: errno %d; %d were under way when the client may have given up", i, errno, begun)
				}
			}
			for i := range int64(begun + 1) {
				if dev.Holds(i*4096, fill(4096, 1)) != (i < begun) {
					t.Errorf("page %d is not as it was when the client may have given up", i)
				}
			}
			// The next one is as good as any.
			if _, err := old.Write(append(nbdtest.Request(nil, nbdtest.Write, 0, 7, 0, 4096), fill(4096, 2)...)); err != nil {
				t.Fatal(err)
			}
			reply := make([]byte, 16)
			if _, err := io.ReadFull(old, reply); err != nil || binary.BigEndian.Uint32(reply[4:]) != 0 || !dev.Holds(0, fill(4096, 2)) {
				t.Errorf("a write afterwards: %v, %x", err, reply)
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
