package nbd_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
	"dmps/internal/accept"
)

// TestVanishInsideAWrite: what arrived of the payload never reaches the
// device, and its buffers go back to the arena.
func TestVanishInsideAWrite(t *testing.T) {
	for _, sent := range []int{0, 1, 4096, 100_000, 1<<20 - 1} {
		dev := devicetest.New(t, devicetest.NewDisk(4<<20), 512, false)
		_, uri := serve(t, nbd.Config{Exports: exports(dev)})
		c, err := nbdtest.Connect(uri, nbdtest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ok(t, c.Do(nbdtest.Write, 0, 0, 1<<20, fill(1<<20, 1)))
		half := nbdtest.Request(nil, nbdtest.Write, 0, 99, 0, 1<<20)
		if _, err := c.Conn.Write(append(half, fill(sent, 2)...)); err != nil {
			t.Fatal(err)
		}
		if err := c.Abandon(); err != nil {
			t.Fatal(err)
		}
		dev.WaitFor(func(s devicetest.State) bool { return s.OnIdle == 0 && s.FreePages == 512 })
		if !dev.Holds(0, fill(1<<20, 1)) {
			t.Fatalf("%d bytes of a payload reached the device", sent)
		}
	}
}

// TestDisconnectWaits: NBD_CMD_DISC is obeyed after everything before it was
// answered.
func TestDisconnectWaits(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 256, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c, err := nbdtest.Connect(uri, nbdtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dev.Pause(true)
	var replies []<-chan nbdtest.Reply
	for i := range 20 {
		replies = append(replies, c.Go(nbdtest.Write, 0, uint64(i*4096), 4096, fill(4096, byte(i))))
		replies = append(replies, c.Go(nbdtest.Read, 0, 512<<10, 4096, nil))
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	dev.WaitFor(func(s devicetest.State) bool { return s.Waiting == 40 })
	dev.Pause(false)
	for _, r := range replies {
		ok(t, <-r)
	}
	if err := <-closed; err != nil {
		t.Errorf("disconnect: %v", err)
	}
}

// TestOutOfOrder: a request that takes long does not hold up others.
func TestOutOfOrder(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	release := make(chan struct{})
	dev.SetFault(func(op *client.Op) error {
		if op.Off == 0 {
			dev.Unlocked(func() { <-release })
		}
		return nil
	})
	slow := c.Go(nbdtest.Read, 0, 0, 1, nil)
	ok(t, c.Do(nbdtest.Read, 0, 4096, 1, nil))
	ok(t, c.Do(nbdtest.Write, 0, 8192, 1, []byte{1}))
	select {
	case <-slow:
		t.Error("the slow one was answered")
	default:
	}
	close(release)
	ok(t, <-slow)
}

// TestBadMagic closes the connection that sent it, and no other, after its
// earlier requests were answered.
func TestBadMagic(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	good := connect(t, uri, nbdtest.Options{})
	bad, err := nbdtest.Connect(uri, nbdtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := bad.Go(nbdtest.Write, 0, 0, 100, fill(100, 1))
	if _, err := bad.Conn.Write(make([]byte, 28)); err != nil {
		t.Fatal(err)
	}
	ok(t, <-r)
	if r := bad.Do(nbdtest.Read, 0, 0, 1, nil); r.Err == nil {
		t.Error("the connection goes on after garbage")
	}
	if err := bad.Abandon(); err != nil {
		t.Error(err)
	}
	ok(t, good.Do(nbdtest.Read, 0, 0, 1, nil))
}

// TestArenaIsBackPressure: more writes than the arena holds all complete.
func TestArenaIsBackPressure(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(4<<20), 40, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	var replies []<-chan nbdtest.Reply
	for i := range 128 {
		replies = append(replies, c.Go(nbdtest.Write, 0, uint64(i)*32768, 32768, fill(32768, byte(i))))
	}
	for _, r := range replies {
		ok(t, <-r)
	}
	for i := range 128 {
		if !dev.Holds(int64(i)*32768, fill(32768, byte(i))) {
			t.Fatalf("write %d is wrong", i)
		}
	}
}

// TestSlowReader: a client that sends requests and reads no replies stops
// being read from, does not stop the device or another client, and gets all
// replies when it reads.
func TestSlowReader(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(4<<20), 2048, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev), Depth: 8})
	other := connect(t, uri, nbdtest.Options{})
	ok(t, other.Do(nbdtest.Write, 0, 0, 1<<20, fill(1<<20, 1)))

	slow := negotiated(t, uri)
	const n = 64
	sent := make(chan error, 1)
	go func() {
		var out []byte
		for i := range n {
			out = nbdtest.Request(out, nbdtest.Read, 0, uint64(i), 0, 512<<10)
		}
		_, err := slow.Write(append(out, nbdtest.Request(nil, nbdtest.Disconnect, 0, 0, 0, 0)...))
		sent <- err
	}()
	// Depth bounds what the slow one holds: 8 x 128 pages of 2048.
	dev.WaitFor(func(s devicetest.State) bool { return s.FreePages <= 2048-7*128 })
	for range 100 {
		ok(t, other.Do(nbdtest.Read, 0, 0, 4096, nil))
		if free := dev.State().FreePages; free < 2048-9*128 {
			t.Fatalf("the slow client holds %d pages", 2048-free)
		}
	}
	got, err := io.ReadAll(slow)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if want := n * (16 + 512<<10); len(got) != want {
		t.Errorf("%d bytes of replies, want %d", len(got), want)
	}
}

// negotiated is a bare connection after NBD_OPT_EXPORT_NAME: simple replies.
func negotiated(t testing.TB, uri string) net.Conn {
	t.Helper()
	nc, err := nbdtest.DialURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if _, err := nc.Write(nbdtest.Option([]byte{0, 0, 0, 3}, 1, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 18+10)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// TestStall: clients that stop in the middle lose their connection; an idle
// one does not.
func TestStall(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(4<<20), 2048, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev), StallTimeout: time.Second})
	idle := connect(t, uri, nbdtest.Options{})
	ok(t, idle.Do(nbdtest.Write, 0, 0, 4<<20, fill(4<<20, 1)))

	writer := negotiated(t, uri)
	if _, err := writer.Write(nbdtest.Request(nil, nbdtest.Write, 0, 1, 0, 4096)); err != nil {
		t.Fatal(err)
	}
	reader := negotiated(t, uri)
	if _, err := reader.Write(nbdtest.Request(nil, nbdtest.Read, 0, 1, 0, 4<<20)); err != nil {
		t.Fatal(err)
	}
	dev.WaitFor(func(s devicetest.State) bool { return s.OnIdle == 1 && s.FreePages == 2048 })
	ok(t, idle.Do(nbdtest.Read, 0, 0, 1, nil))
}

// TestShutdown: what is in flight completes, what comes later is answered with
// ESHUTDOWN, nobody is accepted any more.
func TestShutdown(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = "unix:" + filepath.Join(t.TempDir(), "s")
			}
			l, err := nbd.Listen(addr)
			if err != nil {
				t.Fatal(err)
			}
			s, err := nbd.NewServer(nbd.Config{Exports: exports(dev)})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			uri := nbd.URI(l.Addr(), "vol")
			c, err := nbdtest.Connect(uri, nbdtest.Options{Export: "vol"})
			if err != nil {
				t.Fatal(err)
			}
			dev.Pause(true)
			before := c.Go(nbdtest.Write, 0, 0, 100, fill(100, 1))
			dev.WaitFor(func(s devicetest.State) bool { return s.Waiting == 1 })
			over := make(chan error, 1)
			go func() { over <- s.Shutdown(context.Background()) }()
			if err := <-served; err != nbd.ErrServerClosed {
				t.Errorf("Serve: %v", err)
			}
			for _, r := range []nbdtest.Reply{
				c.Do(nbdtest.Write, 0, 4096, 100, fill(100, 2)),
				c.Do(nbdtest.Read, 0, 0, 100, nil),
			} {
				if r.Err != nil || r.Errno != eshutdown {
					t.Errorf("after Shutdown: errno %d, %v", r.Errno, r.Err)
				}
			}
			dev.Pause(false)
			ok(t, <-before)
			if err := <-over; err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			if r := c.Do(nbdtest.Read, 0, 0, 1, nil); r.Err == nil {
				t.Error("the connection is still there")
			}
			_ = c.Conn.Close() // was closed by the server
			if _, err := nbdtest.Connect(uri, nbdtest.Options{}); err == nil {
				t.Error("a connection was accepted after Shutdown")
			}
			if err := s.Serve(l); err != nbd.ErrServerClosed {
				t.Errorf("Serve after Shutdown: %v", err)
			}
		})
	}
}

// TestShutdownGivesUp: with an op that does not end, Shutdown closes the
// connections when its context ends, and still waits for the op: its buffers
// are the device's.
func TestShutdownGivesUp(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	s, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c, err := nbdtest.Connect(uri, nbdtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dev.Pause(true)
	r := c.Go(nbdtest.Write, 0, 0, 100, fill(100, 1))
	dev.WaitFor(func(s devicetest.State) bool { return s.Waiting == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	over := make(chan error, 1)
	go func() { over <- s.Shutdown(ctx) }()
	if r := <-r; r.Err == nil {
		t.Error("answered")
	}
	dev.Pause(false)
	if err := <-over; err == nil {
		t.Error("Shutdown did not say that it gave up")
	}
	_ = c.Conn.Close() // was closed by the server
}

func TestTooManyConnections(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev), MaxConns: 2})
	a, b := connect(t, uri, nbdtest.Options{}), connect(t, uri, nbdtest.Options{})
	if _, err := nbdtest.Connect(uri, nbdtest.Options{}); err == nil {
		t.Error("a third connection was served")
	}
	ok(t, a.Do(nbdtest.Read, 0, 0, 1, nil))
	ok(t, b.Do(nbdtest.Read, 0, 0, 1, nil))
}

func TestSeveralExports(t *testing.T) {
	one, two := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false), devicetest.New(t, devicetest.NewDisk(2<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: map[string]nbd.Export{"one": {Device: one}, "two": {Device: two}}, Default: "two"})
	a, b := connect(t, uri, nbdtest.Options{Export: "one"}), connect(t, uri, nbdtest.Options{})
	if a.Size != 1<<20 || b.Size != 2<<20 {
		t.Errorf("sizes %d and %d", a.Size, b.Size)
	}
	ok(t, a.Do(nbdtest.Write, 0, 0, 10, fill(10, 1)))
	if got := ok(t, b.Do(nbdtest.Read, 0, 0, 10, nil)); !bytes.Equal(got.Data, make([]byte, 10)) {
		t.Error("a write to one export shows in the other")
	}
	if _, err := nbdtest.Connect(uri, nbdtest.Options{Export: "three"}); err == nil {
		t.Error("connected to an export that does not exist")
	}
}

func TestHandshakeTimeout(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev), HandshakeTimeout: 50 * time.Millisecond})
	nc, err := nbdtest.DialURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(nc); err != nil {
		t.Errorf("closed with %v", err)
	}
	_ = nc.Close() // was closed by the server
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b")
	l, err := nbd.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := nbd.URI(l.Addr(), "vol"), "nbd+unix:///vol?socket="+filepath.Dir(path)+"/a%20b"; got != want {
		t.Errorf("URI %s, want %s", got, want)
	}
	if _, err := nbd.Listen("unix:" + path); err == nil {
		t.Error("took over a socket that is in use")
	}
	l.(*accept.Listener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = nbd.Listen("unix:" + path)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = nbd.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := nbd.URI(l.Addr(), ""), "nbd://"+l.Addr().String(); got != want {
		t.Errorf("URI %s, want %s", got, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
