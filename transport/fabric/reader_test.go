//go:build fabric && cgo

package fabric_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
)

func reader(epoch uint64) transport.Hello {
	h := hello(epoch)
	h.Mode = transport.ModeReader
	return h
}

// written is a server and what an owner has written there.
func written(t *testing.T) (*rig, transport.Conn, []byte) {
	t.Helper()
	r := start(t, "tcp", server.Config{Window: 16}, 0)
	u := newUser(t)
	owner := u.dial(r.addr, 1)
	u.fill(1)
	u.do(owner, transport.OpWrite)
	return r, owner, bytes.Clone(u.mem)
}

// mappedReader is a reader's session that reaches the chunk's memory.
func mappedReader(u *user, addr string) transport.Conn {
	u.t.Helper()
	c, _, err := u.d.Dial(u.t.Context(), addr, reader(1), nil)
	if err != nil {
		u.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !fabric.Mapped(c, chunk); time.Sleep(time.Millisecond) {
		u.do(c, transport.OpRead)
		if time.Now().After(end) {
			u.t.Fatal("a reader reaches no memory after 10 s")
		}
	}
	return c
}

// A reader opens nothing, and soon reads without the server's CPU.
func TestReaderOneSided(t *testing.T) {
	r, _, want := written(t)
	u := newUser(t)
	c := mappedReader(u, r.addr)
	was, counts := r.mem.Stats().Reads, u.d.Counts()
	clear(u.mem)
	u.do(c, transport.OpRead)
	if !bytes.Equal(u.mem, want) {
		t.Error("other bytes than written")
	}
	if s := r.mem.Stats(); s.Reads != was {
		t.Errorf("the server saw %d reads", s.Reads-was)
	}
	if n := u.d.Counts(); n.OneSided != counts.OneSided+2 || n.Linked != counts.Linked {
		t.Errorf("of two requests: %+v, before %+v", n, counts)
	}
	done := make(chan error)
	q := &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: u.segs[:1], Done: func(q *transport.Request) { done <- q.Err }}
	if err := c.Submit(q); err != nil {
		t.Fatal(err)
	}
	c.Kick()
	if err := <-done; !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a reader's write: %v", err)
	}
}

// A reader that writes against the rules changes nothing: what it has the keys of
// can be read only.
func TestReaderCannotWrite(t *testing.T) {
	r, owner, want := written(t)
	x, err := fabric.NewIntruder(t.Context(), r.addr, reader(1), chunk, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var landed atomic.Int64
	stop := writes(x, &landed)
	time.Sleep(50 * time.Millisecond)
	stop()
	u := newUser(t)
	c := mappedReader(u, r.addr)
	clear(u.mem)
	u.do(c, transport.OpRead)
	if !bytes.Equal(u.mem, want) || landed.Load() != 0 {
		t.Errorf("a reader wrote: %d transfers", landed.Load())
	}
	if err := owner.Err(); err != nil {
		t.Errorf("the owner's session ended: %v", err)
	}
}

// A chunk that a reader reads one-sided is not given to others before the reader's
// endpoint is closed; then it is.
func TestReaderRecalled(t *testing.T) {
	r, owner, want := written(t)
	u := newUser(t)
	c := mappedReader(u, r.addr)
	if got := r.mem.Drop([]raid.ChunkID{chunk}); len(got) != 0 {
		t.Fatalf("dropped %v below an owner", got)
	}
	clear(u.mem)
	u.do(c, transport.OpRead) // the owner has it: nobody is to be bothered
	if !bytes.Equal(u.mem, want) {
		t.Error("other bytes than written")
	}
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	dropped := false
	for end := time.Now().Add(10 * time.Second); !dropped; time.Sleep(time.Millisecond) {
		dropped = len(r.mem.Drop([]raid.ChunkID{chunk})) == 1
		if time.Now().After(end) {
			t.Fatal("the chunk was not given back in 10 s")
		}
	}
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the reader's session is still there")
	}
	if err := c.Err(); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("the reader's session ended with %v", err)
	}
}

// A reader may release a chunk as an owner does.
func TestReaderReleases(t *testing.T) {
	r, owner, _ := written(t)
	u := newUser(t)
	c := mappedReader(u, r.addr)
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.OpenChunk(t.Context(), chunk, transport.ChunkSpec{Release: true, Slots: 1, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); len(r.mem.Drop([]raid.ChunkID{chunk})) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the chunk was not given back in 10 s")
		}
	}
	if err := c.Err(); err != nil {
		t.Errorf("the reader's session ended: %v", err)
	}
}
