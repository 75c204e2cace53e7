package transporttest

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// Medium is what Run tests: one server behind one medium, new for each test.
type Medium struct {
	NewDialer   func() transport.Dialer
	Addr        string
	Cluster     string
	Incarnation uint64
	// Stall freezes and thaws the server. Nil: the medium cannot; tests that
	// need it are skipped.
	Stall func(on bool)
	// Allocs is whether requests must not allocate. Never checked under the race
	// detector or the address sanitiser.
	Allocs bool
	// Unverified: the server's CPU does not see writes to chunks that are not
	// InPlace. A damaged page is stored; whoever reads it compares.
	Unverified bool
}

// Factory starts a server with at least 8 MiB to lend and a window of 16, and
// ends it with the test.
type Factory func(t *testing.T) Medium

const (
	volume = 7
	chunk  = 70
	slots  = 64
	window = 16
)

// rig is one client of a Medium.
type rig struct {
	t *testing.T
	m Medium
	d transport.Dialer

	mem  []byte // registered
	used int
}

func newRig(t *testing.T, m Medium) *rig {
	t.Helper()
	r := &rig{t: t, m: m, d: m.NewDialer(), mem: mapMemory(t, 4<<20)}
	if err := r.d.Register(r.mem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.d.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// mapMemory is n bytes outside the Go heap, until the test ends: what a medium
// may hand to others than Go.
func mapMemory(t *testing.T, n int) []byte {
	t.Helper()
	mem, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	return mem
}

// take cuts n bytes off the registered memory.
func (r *rig) take(n int) []byte {
	r.t.Helper()
	if r.used+n > len(r.mem) {
		r.t.Fatal("the test uses more memory than the rig has")
	}
	b := r.mem[r.used : r.used+n : r.used+n]
	r.used += n
	return b
}

func (r *rig) hello(epoch uint64) transport.Hello {
	return transport.Hello{Cluster: r.m.Cluster, Volume: volume, Epoch: epoch, Client: "conformance"}
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return c
}

func (r *rig) dial(h transport.Hello, idle func()) transport.Conn {
	r.t.Helper()
	c, w, err := r.d.Dial(ctx(r.t), r.m.Addr, h, idle)
	if err != nil {
		r.t.Fatal(err)
	}
	if w.Window != c.Window() || w.Window != window || w.Incarnation != r.m.Incarnation || w.Server == "" {
		r.t.Errorf("welcome %+v", w)
	}
	return c
}

// session is a rig's usual session with the chunk open.
func (r *rig) session() transport.Conn {
	r.t.Helper()
	c := r.dial(r.hello(1), nil)
	if err := c.OpenChunk(ctx(r.t), chunk, spec); err != nil {
		r.t.Fatal(err)
	}
	return c
}

var spec = transport.ChunkSpec{Slots: slots, HeaderBytes: raid.HeaderSize}

// request makes a request for indexes. A write has pages filled with seq.
func (r *rig) request(op transport.Op, seq uint64, indexes ...uint32) *transport.Request {
	q := &transport.Request{Op: op, Chunk: chunk}
	for _, x := range indexes {
		s := transport.Seg{Index: x, Header: r.take(raid.HeaderSize), Page: r.take(transport.PageSize)}
		if op == transport.OpWrite {
			fill(s, uint64(x), seq)
		}
		q.Segs = append(q.Segs, s)
	}
	return q
}

// fill makes a segment hold a page and its header.
func fill(s transport.Seg, page, seq uint64) {
	for i := range s.Page {
		s.Page[i] = byte(uint64(i)*3 + page*5 + seq*11)
	}
	h := raid.Header{Kind: raid.KindPage, Page: raid.PageNo(page), Seq: raid.Seq(seq), CRC: raid.Checksum(s.Page), Site: site(s.Index)}
	h.Put(s.Header, nil)
}

func site(index uint32) raid.Site { return raid.Site{Volume: volume, Index: raid.Index(index)} }

// seq is the sequence number in a segment's header, sound or not.
func (r *rig) seq(s transport.Seg) raid.Seq {
	h, err := raid.ParseHeader(s.Header)
	if err != nil {
		r.t.Helper()
		r.t.Fatal(err)
	}
	return h.Seq
}

// change encodes a header anew, with its table.
func change(head []byte, f func(*raid.Header)) error {
	h, err := raid.ParseHeader(head)
	if err != nil {
		return err
	}
	f(&h)
	var table []raid.RowEntry
	for i := range raid.RowTable(head) {
		table = append(table, raid.ParseRowEntry(head, i))
	}
	h.Put(head, table)
	return nil
}

// do submits q and waits for its end.
func (r *rig) do(c transport.Conn, q *transport.Request) error {
	r.t.Helper()
	done := make(chan struct{})
	q.Done = func(*transport.Request) { close(done) }
	if err := c.Submit(q); err != nil {
		return err
	}
	c.Kick()
	r.wait(done)
	return q.Err
}

func (r *rig) wait(done <-chan struct{}) {
	r.t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		r.t.Fatal("waited a minute")
	}
}

// start submits many requests, in flight together; wait waits for all.
func (r *rig) start(c transport.Conn, qs []*transport.Request) (wait func()) {
	r.t.Helper()
	var wg sync.WaitGroup
	for _, q := range qs {
		wg.Add(1)
		q.Done = func(*transport.Request) { wg.Done() } // a second call panics
		if err := c.Submit(q); err != nil {
			r.t.Fatal(err)
		}
	}
	c.Kick()
	return func() {
		r.t.Helper()
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		r.wait(done)
	}
}
