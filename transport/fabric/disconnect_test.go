//go:build fabric && cgo

package fabric_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

var disconnects = flag.Int("disconnects", 60, "TestDisconnects: how many sessions of each provider end abruptly")

// Sessions end abruptly with requests in flight: every request completes once,
// no memory is touched after that, and the next session finds whole slots: what
// was written, or what does not pass for it.
func TestDisconnects(t *testing.T) {
	for _, p := range []string{"tcp", "shm", "verbs"} {
		t.Run(p, func(t *testing.T) {
			c := startChild(t, childSpec{Provider: p, Window: 16, Memory: 16 << 20})
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			w := newUser(t)
			for i := range *disconnects {
				disconnect(t, c.addr, uint64(i), rnd, w)
			}
			// The server is whole.
			conn := w.dial(c.addr, uint64(*disconnects))
			w.fill(7)
			w.do(conn, transport.OpWrite)
			want := bytes.Clone(w.mem)
			clear(w.mem)
			w.do(conn, transport.OpRead)
			if !bytes.Equal(w.mem, want) {
				t.Error("other bytes than written")
			}
		})
	}
}

func disconnect(t *testing.T, addr string, epoch uint64, rnd *rand.Rand, w *user) {
	// Every few times a newer lease is what ends the session, or a deadline.
	how := rnd.IntN(4)
	fence, deadline := how == 0, how == 1
	var late atomic.Bool
	conn := w.dial(addr, epoch)
	w.do(conn, transport.OpRead)
	for i, s := range w.segs { // as the session before has left them
		if h, err := raid.ParseHeader(s.Header); err == nil && h.Kind == raid.KindPage && h.CRC != raid.Checksum(s.Page) {
			t.Fatalf("slot %d: a header of sequence %d vouches for another page", i, h.Seq)
		}
	}
	w.fill(epoch)
	var reqs [8]transport.Request
	var over [8]atomic.Int32
	left := make(chan struct{}, len(reqs))
	for i := range reqs {
		q := &reqs[i]
		q.Chunk, q.Op, q.Segs = chunk, transport.OpWrite, w.segs[i*4:i*4+4]
		if i%2 == 1 {
			q.Op, q.Segs = transport.OpRead, w.more[i*4:i*4+4]
		}
		q.Done = func(q *transport.Request) {
			// Again and again, until the session is over.
			if late.Load() {
				q.Deadline = time.Now()
			}
			if q.Err == nil && conn.Submit(q) == nil {
				conn.Kick()
				return
			}
			if q.Err != nil && !errors.Is(q.Err, transport.ErrClosed) && !(deadline && errors.Is(q.Err, transport.ErrDeadline)) {
				t.Errorf("request ended with %v", q.Err)
			}
			if over[i].Add(1) != 1 {
				t.Error("a request completed twice")
			}
			for k := range q.Segs {
				for b := range q.Segs[k].Page {
					q.Segs[k].Page[b] = 0xDD
				}
			}
			left <- struct{}{}
		}
		if err := conn.Submit(q); err != nil {
			t.Fatal(err)
		}
	}
	conn.Kick()
	time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
	switch {
	case deadline:
		late.Store(true)
	case fence:
		next, _, err := w.d.Dial(t.Context(), addr, hello(epoch+1), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
	default:
		conn.Abort(errors.New("abrupt"))
	}
	for range reqs {
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			t.Fatal("a request did not complete in 10 s")
		}
	}
	<-conn.Done()
	if deadline && !errors.Is(conn.Err(), transport.ErrDeadline) {
		t.Errorf("a late request ended the session with %v", conn.Err())
	}
	time.Sleep(time.Millisecond) // for what is not over
	for i := range reqs {
		for k := range reqs[i].Segs {
			for _, b := range reqs[i].Segs[k].Page {
				if b != 0xDD {
					t.Fatal("memory was touched after its request had completed")
				}
			}
		}
	}
}
