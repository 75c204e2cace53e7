package tcp

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"dmps/transport"
)

// peer is a server written by hand: it welcomes, then runs f.
func peer(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := decodeHello(c); err != nil {
			t.Error(err)
			return
		}
		if _, err := c.Write(encodeWelcome(transport.Welcome{Server: "s", Incarnation: 1, Window: 2}, transport.Version)); err != nil {
			return
		}
		f(c)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "tcp://" + l.Addr().String()
}

// A server that does not keep the protocol ends the session; every request
// completes once, and nothing is believed.
func TestMadServer(t *testing.T) {
	rep := func(p reply, more ...byte) func(net.Conn) {
		b := make([]byte, replyHead)
		p.put(b)
		return func(c net.Conn) {
			// Half of the request has been read at most.
			if _, err := c.Read(make([]byte, 10)); err != nil {
				t.Error(err)
			}
			_, _ = c.Write(append(b, more...))
			for {
				if _, err := c.Read(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}
	}
	const id = 1<<16 | 1 // the first request gets the last place
	for name, c := range map[string]struct {
		f    func(net.Conn)
		want error
	}{
		"unknown id":        {rep(reply{typ: typeReply, id: 1 << 16}), errFrame},
		"id out of range":   {rep(reply{typ: typeReply, id: 0xffff}), errFrame},
		"stale id":          {rep(reply{typ: typeReply, id: 2<<16 | 1}), errFrame},
		"short reply":       {rep(reply{typ: typeReply, id: id, length: 100}), errFrame},
		"huge reply":        {rep(reply{typ: typeReply, id: id, length: 1 << 31}), errFrame},
		"unknown type":      {rep(reply{typ: 7, id: id}), errFrame},
		"unknown status":    {rep(reply{typ: typeReply, status: 99, id: id}), errFrame},
		"payload on error":  {rep(reply{typ: typeReply, status: transport.StatusNoChunk, id: id, length: 1}), errFrame},
		"goaway, no reason": {rep(reply{typ: typeGoaway}), errFrame},
		"goaway":            {rep(reply{typ: typeGoaway, status: transport.StatusStaleEpoch}), transport.ErrStaleEpoch},
		"end of stream":     {func(net.Conn) {}, transport.ErrClosed},
		"half a reply":      {func(c net.Conn) { _, _ = c.Write([]byte{0x81, 0}) }, transport.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			var d Dialer
			mem := make([]byte, 2*transport.PageSize)
			if err := d.Register(mem); err != nil {
				t.Fatal(err)
			}
			conn, _, err := d.Dial(t.Context(), peer(t, c.f), transport.Hello{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			ended := make(chan error, 2)
			q := &transport.Request{
				Op: transport.OpRead, Chunk: 1, Done: func(q *transport.Request) { ended <- q.Err },
				Segs: []transport.Seg{{Header: mem[:88], Page: mem[4096:]}},
			}
			if err := conn.Submit(q); errors.Is(err, transport.ErrClosed) {
				ended <- err // the server was faster
			} else if err != nil {
				t.Fatal(err)
			}
			conn.Kick()
			select {
			case err := <-ended:
				if !errors.Is(err, transport.ErrClosed) {
					t.Errorf("request ended with %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("the request did not end")
			}
			<-conn.Done()
			if err := conn.Err(); !errors.Is(err, c.want) || !errors.Is(err, transport.ErrClosed) {
				t.Errorf("session ended with %v", err)
			}
			if len(ended) != 0 || !bytes.Equal(mem, make([]byte, len(mem))) {
				t.Error("ended twice, or memory was written")
			}
		})
	}
}

// A server that answers a write before it can have it: the request does not
// complete while its pages are still to be sent.
func TestAnswerBeforeQuestion(t *testing.T) {
	release := make(chan struct{})
	addr := peer(t, func(c net.Conn) {
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		b := make([]byte, replyHead)
		p := reply{typ: typeReply, id: 1<<16 | 1}
		p.put(b)
		_, _ = c.Write(b)
		<-release
	})
	defer close(release)
	var d Dialer
	mem := make([]byte, 2*transport.PageSize)
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	tc, _, err := d.Dial(t.Context(), addr, transport.Hello{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ended := make(chan error, 1)
	c := tc.(*conn)
	q := &transport.Request{
		Op: transport.OpWrite, Chunk: 1, Deadline: time.Now().Add(2 * time.Second),
		Segs: []transport.Seg{{Header: mem[:88], Page: mem[4096:]}},
	}
	q.Done = func(q *transport.Request) {
		if q.Err == nil && c.w.Taken() < 24+8+88+4096 {
			t.Error("completed with its page not sent")
		}
		ended <- q.Err
	}
	// Not kicked: whoever reads the answer sends the question first. (Or the
	// answer came before the request existed, and the session has ended.)
	if err := c.Submit(q); err != nil {
		return
	}
	<-ended
}

func TestDialRefuses(t *testing.T) {
	var d Dialer
	for _, addr := range []string{"", "127.0.0.1:1", "rdma://x", "tcp://127.0.0.1:1"} {
		if _, _, err := d.Dial(t.Context(), addr, transport.Hello{}, nil); err == nil {
			t.Errorf("dialled %q", addr)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
