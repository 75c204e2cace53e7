package rails_test

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/transport"
	"dmps/transport/rails"
	"dmps/transport/tcp"
)

// liar is a server that answers each connection with bytes, whatever it is asked.
func liar(t testing.TB, says []byte) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(liarLimit))
				var b [4096]byte
				if _, err := c.Read(b[:]); err != nil { // the hello
					return
				}
				if _, err := c.Write(says); err != nil || c.(*net.TCPConn).CloseWrite() != nil {
					return
				}
				for err == nil { // an end before the client's would take back what it has not read
					_, err = c.Read(b[:])
				}
			})
		}
	})
	return "tcp://" + l.Addr().String(), func() { l.Close(); wg.Wait() }
}

// liarLimit is for what takes milliseconds.
const liarLimit = 30 * time.Second

// FuzzLiar has the addresses of a server answer with any bytes: a session comes to be or
// does not, each of its requests ends once, it ends, and it takes no more memory than
// the largest window.
func FuzzLiar(f *testing.F) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	welcome := unhex(`444d5053000d0a1a 0600 00 00 10000000 efbeadde00000000 00010000 0200 7339`)
	other := unhex(`444d5053000d0a1a 0600 00 00 10000000 efbeadd000000000 00100000 0200 7339`)
	older := unhex(`444d5053000d0a1a 0500 00 00 10000000 efbeadde00000000 00010000 0200 7339`)
	stale := unhex(`444d5053000d0a1a 0600 02 00 1b000000 1900 7472616e73706f72743a207374616c652065706f6368203c33`)
	opened := unhex(`81 00 0000 00000000 00000000 81 00 0000 01000000 00000000 81 00 0000 00000100 00000000`)
	f.Add(welcome, welcome)
	f.Add(welcome, other)
	f.Add(welcome, stale)
	f.Add(welcome, older)
	f.Add(append(append([]byte(nil), welcome...), opened...), append(append([]byte(nil), welcome...), opened...))
	f.Add(append(append([]byte(nil), welcome...), unhex(`82 02 0000 00000000 05000000 0000000000`)...), welcome)
	f.Add([]byte{}, welcome)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a, stopA := liar(t, first)
		defer stopA()
		b, stopB := liar(t, second)
		defer stopB()
		addr, err := rails.Join([]string{a, b})
		if err != nil {
			t.Fatal(err)
		}
		d := rails.Dialer{Dialer: new(tcp.Dialer), Log: slog.New(slog.DiscardHandler)}
		ended := time.AfterFunc(2*liarLimit, func() { panic("a session with a liar hangs") })
		defer ended.Stop()
		believe(t, &d, addr)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 64<<20 {
			t.Errorf("%d bytes were allocated", after.TotalAlloc-before.TotalAlloc)
		}
	})
}

// believe uses a session like one with an honest server.
func believe(t *testing.T, d *rails.Dialer, addr string) {
	mem := make([]byte, 3*transport.PageSize)
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), liarLimit)
	defer cancel()
	c, _, err := d.Dial(ctx, addr, transport.Hello{Cluster: "c1", Volume: 7, Epoch: 3, Client: "bob"}, nil)
	if err != nil {
		return
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_ = c.OpenChunk(short, 1, transport.ChunkSpec{Slots: 16, HeaderBytes: 88})
	done := make(chan *transport.Request, 8)
	sent := 0
	for i, op := range []transport.Op{transport.OpRead, transport.OpWrite} {
		q := &transport.Request{
			Op: op, Chunk: 1, Segs: []transport.Seg{{Index: 1, Header: mem[i*88:][:88:88], Page: mem[(i+1)*transport.PageSize:][:transport.PageSize:transport.PageSize]}},
			Deadline: time.Now().Add(time.Millisecond), Done: func(q *transport.Request) { done <- q },
		}
		if c.Submit(q) == nil {
			sent++
		}
	}
	c.Kick()
	for range sent {
		<-done
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if c.Err() == nil {
		t.Error("a session that ended says no cause")
	}
	if len(done) > 0 {
		t.Errorf("%d requests ended twice", len(done))
	}
}
