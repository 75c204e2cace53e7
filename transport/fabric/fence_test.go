//go:build fabric && cgo

package fabric_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
)

const (
	slots = 64
	chunk = 9
)

var spec = transport.ChunkSpec{Slots: slots, HeaderBytes: raid.HeaderSize}

func hello(epoch uint64) transport.Hello {
	return transport.Hello{Cluster: "c", Volume: 1, Epoch: epoch, Client: "test"}
}

// user is a client and its registered memory: one request for half of a chunk.
type user struct {
	t    testing.TB
	d    *fabric.Dialer
	mem  []byte // of segs
	segs []transport.Seg
	more []transport.Seg // the same slots, other memory
}

func newUser(t testing.TB) *user {
	t.Helper()
	const each = transport.PageSize + raid.HeaderSize
	mem, err := unix.Mmap(-1, 0, 2*slots*each, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, d: &fabric.Dialer{Strict: true, Eager: none}, mem: mem[:slots*each]}
	if err := u.d.Register(mem); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * slots {
		b := mem[i*each:]
		s := transport.Seg{Index: uint32(i % slots), Page: b[:transport.PageSize:transport.PageSize], Header: b[transport.PageSize:each:each]}
		if i < slots {
			u.segs = append(u.segs, s)
		} else {
			u.more = append(u.more, s)
		}
	}
	t.Cleanup(func() {
		if err := u.d.Close(); err != nil {
			t.Error(err)
		}
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	return u
}

func (u *user) dial(addr string, epoch uint64) transport.Conn {
	u.t.Helper()
	c, _, err := u.d.Dial(u.t.Context(), addr, hello(epoch), nil)
	if err != nil {
		u.t.Fatal(err)
	}
	if err := c.OpenChunk(u.t.Context(), chunk, spec); err != nil {
		u.t.Fatal(err)
	}
	return c
}

// do moves the whole chunk.
func (u *user) do(c transport.Conn, op transport.Op) {
	u.t.Helper()
	for at := 0; at < slots; at += transport.MaxSegs {
		done := make(chan struct{})
		q := &transport.Request{Op: op, Chunk: chunk, Segs: u.segs[at : at+transport.MaxSegs], Done: func(*transport.Request) { close(done) }}
		if err := c.Submit(q); err != nil {
			u.t.Fatal(err)
		}
		c.Kick()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			u.t.Fatal("waited 10 s")
		}
		if q.Err != nil {
			u.t.Fatal(q.Err)
		}
	}
}

func (u *user) fill(seq uint64) {
	for i := range u.segs {
		s := &u.segs[i]
		for k := range s.Page {
			s.Page[k] = byte(uint64(k) + seq*7 + uint64(i))
		}
		h := raid.Header{Kind: raid.KindPage, Page: raid.PageNo(i), Seq: raid.Seq(seq), CRC: raid.Checksum(s.Page), Site: raid.Site{Volume: 1, Index: raid.Index(s.Index)}}
		h.Put(s.Header, nil)
	}
}

// A client that pays no attention to its fence writes as fast as it can: from
// the moment that the new session is accepted nothing of it lands.
func TestFenceIgnored(t *testing.T) {
	for _, p := range []string{"tcp", "shm", "verbs"} {
		t.Run(p, func(t *testing.T) {
			c := startChild(t, childSpec{Provider: p, Window: 16, Memory: 16 << 20})
			for epoch := uint64(1); epoch < 20; epoch++ {
				ignoreFence(t, c.addr, epoch)
			}
		})
	}
}

func ignoreFence(t *testing.T, addr string, epoch uint64) {
	x, err := fabric.NewIntruder(t.Context(), addr, hello(epoch), chunk, spec)
	if err != nil {
		t.Fatal(err)
	}
	stop, some := make(chan struct{}), make(chan struct{})
	var n atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		x.Write(chunk, 0xEE, stop, func() {
			if n.Add(1) == int64(1+epoch*3) { // in the middle of something, each time of something else
				close(some)
			}
		})
	})
	defer func() {
		close(stop)
		wg.Wait()
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-some:
	case <-time.After(10 * time.Second):
		t.Fatalf("%d writes in 10 s", n.Load())
	}
	u := newUser(t)
	conn := u.dial(addr, epoch+1)
	u.fill(epoch)
	u.do(conn, transport.OpWrite)
	want := bytes.Clone(u.mem)
	for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
		clear(u.mem)
		u.do(conn, transport.OpRead)
		if !bytes.Equal(u.mem, want) {
			t.Fatalf("epoch %d: a write landed after the fence", epoch)
		}
	}
	<-x.Link().Done()
	if err := x.Link().Err(); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Errorf("the old session ended with %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// writeAndRead writes all of its memory by a session, reads it back, and returns what
// it wrote.
func (u *user) writeAndRead(c transport.Conn) []byte {
	u.t.Helper()
	u.fill(1)
	want := bytes.Clone(u.mem)
	u.do(c, transport.OpWrite)
	clear(u.mem)
	u.do(c, transport.OpRead)
	if !bytes.Equal(u.mem, want) {
		u.t.Error("other bytes than written")
	}
	return want
}
