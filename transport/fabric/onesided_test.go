//go:build fabric && cgo

package fabric_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
)

// eachHere runs a test over each provider of which one process can be both ends.
func eachHere(t *testing.T, test func(t *testing.T, provider string)) {
	for _, p := range []string{"tcp", "verbs"} {
		t.Run(p, func(t *testing.T) { test(t, p) })
	}
}

// The server's session sees nothing of one-sided requests, and all of those
// that are eager, in place, or for it to refuse.
func TestOneSided(t *testing.T) { eachHere(t, onlyOneSided) }

func onlyOneSided(t *testing.T, provider string) {
	r := start(t, provider, server.Config{Window: 16}, 0)
	u := newUser(t)
	c := u.dial(r.addr, 1)
	want := u.writeAndRead(c)
	if s := r.mem.Stats(); s.Reads != 0 || s.Writes != 0 || s.Sessions != 1 {
		t.Errorf("the server saw %d reads and %d writes in %d sessions", s.Reads, s.Writes, s.Sessions)
	}
	eager := newUser(t)
	eager.d.Eager = 1 << 20
	c = eager.dial(r.addr, 2)
	eager.do(c, transport.OpRead)
	if !bytes.Equal(eager.mem, want) {
		t.Error("other bytes over the link than were written beside it")
	}
	if s := r.mem.Stats(); s.Reads != 2 {
		t.Errorf("the server saw %d reads over the link, not 2", s.Reads)
	}
}

// After a release the chunk's keys are good for nothing: the server gives the
// memory to others while the session lasts.
func TestRelease(t *testing.T) { eachHere(t, release) }

func release(t *testing.T, provider string) {
	r := start(t, provider, server.Config{Window: 16}, 0)
	x, err := fabric.NewIntruder(t.Context(), r.addr, hello(1), chunk, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var n atomic.Int64
	defer writes(x, &n)()
	for n.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	if err := x.Link().OpenChunk(t.Context(), chunk, transport.ChunkSpec{Release: true, Slots: 1, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	if got := r.mem.Drop([]raid.ChunkID{chunk}); len(got) != 1 {
		t.Fatalf("dropped %v", got)
	}
	for r.mem.Stats().MemoryUsed != 0 {
		time.Sleep(time.Millisecond)
	}
	// The same memory, for another volume.
	h := hello(1)
	h.Volume++
	u := newUser(t)
	c, _, err := u.d.Dial(t.Context(), r.addr, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.OpenChunk(t.Context(), chunk, spec); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
		u.do(c, transport.OpRead)
		if bytes.Contains(u.mem, bytes.Repeat([]byte{0xEE}, 16)) {
			t.Fatal("a write landed after the chunk was released")
		}
	}
}

// writes makes an intruder write, and counts what was reported as done.
func writes(x *fabric.Intruder, n *atomic.Int64) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		x.Write(chunk, 0xEE, end, func() { n.Add(1) })
	}()
	return func() {
		close(end)
		<-ended
	}
}

// A release waits for what is in flight there, and what comes after it goes over
// the link.
func TestReleaseInFlight(t *testing.T) { eachHere(t, releaseInFlight) }

func releaseInFlight(t *testing.T, provider string) {
	r := start(t, provider, server.Config{Window: 16}, 0)
	u := newUser(t)
	c := u.dial(r.addr, 1)
	for range 20 {
		u.fill(1)
		var over atomic.Int32
		for i := range 8 {
			q := &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: u.segs[i*8 : i*8+8], Done: func(q *transport.Request) {
				if q.Err != nil {
					t.Error(q.Err)
				}
				over.Add(1)
			}}
			if err := c.Submit(q); err != nil {
				t.Fatal(err)
			}
		}
		c.Kick()
		if err := c.OpenChunk(t.Context(), chunk, transport.ChunkSpec{Release: true, Slots: slots, HeaderBytes: raid.HeaderSize}); err != nil {
			t.Fatal(err)
		}
		if n := over.Load(); n != 8 {
			t.Fatalf("released with %d of 8 requests over", n)
		}
		want := bytes.Clone(u.mem)
		clear(u.mem)
		u.do(c, transport.OpRead)
		if !bytes.Equal(u.mem, want) {
			t.Fatal("other bytes than written")
		}
		if err := c.OpenChunk(t.Context(), chunk, spec); err != nil {
			t.Fatal(err)
		}
	}
}
