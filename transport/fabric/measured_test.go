//go:build fabric && cgo

package fabric_test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
)

// slowLink passes on one connection after another to addr, late: what a link costs
// in a data centre, where the fabric is fast.
func slowLink(t *testing.T, addr string, late time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer wg.Done()
		defer to.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			time.Sleep(late)
			if n > 0 {
				if _, err := to.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", addr)
			if err != nil {
				a.Close()
				continue
			}
			wg.Add(2)
			go pass(a, b)
			go pass(b, a)
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// What is measured when a session begins decides where headers go: over a slow
// link none do. It is measured once for a server.
func TestEagerMeasured(t *testing.T) {
	r := start(t, "tcp", server.Config{Window: 16}, 0)
	scheme, at, _ := strings.Cut(r.addr, "://")
	slow := scheme + "://" + slowLink(t, at, 100*time.Microsecond)
	for try := 0; ; try++ { // on a busy machine the fabric can be late too
		u := newUser(t)
		u.d.Eager = 0
		c := u.dial(slow, uint64(1+try))
		if fabric.EagerOf(c) != 0 {
			if try == 50 {
				t.Fatalf("50 sessions over a slow link send up to %d bytes over it", fabric.EagerOf(c))
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		done := make(chan error)
		q := &transport.Request{Op: transport.OpReadHeaders, Chunk: chunk, Count: 1, Segs: []transport.Seg{{Header: u.segs[0].Header}}, Done: func(q *transport.Request) { done <- q.Err }}
		if err := c.Submit(q); err != nil {
			t.Fatal(err)
		}
		c.Kick()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := u.d.Counts(); n.OneSided != 1 || n.Linked != 0 {
			t.Errorf("a header that was to be read one-sided: %+v", n)
		}
		return
	}
}

// A request is one operation where the provider can do that, however its pages
// lie; whatever it is, the bytes are right.
func TestOperations(t *testing.T) {
	r := start(t, "tcp", server.Config{Window: 16}, 0)
	for name, c := range map[string]struct {
		slots       []uint32
		at          []int // page of memory, one a slot
		write, read uint32
	}{
		"one page":             {[]uint32{5}, []int{0}, 1, 1},
		"neighbours":           {[]uint32{5, 6, 7}, []int{0, 1, 2}, 1, 1},
		"in two pieces":        {[]uint32{5, 6, 7}, []int{0, 1, 9}, 1, 1},
		"in three":             {[]uint32{5, 6, 7}, []int{0, 4, 9}, 3, 1},
		"in four":              {[]uint32{5, 6, 7, 8}, []int{0, 4, 9, 12}, 3, 2},
		"in five: a bounce":    {[]uint32{5, 6, 7, 8, 9}, []int{0, 4, 9, 12, 20}, 1, 1},
		"two runs":             {[]uint32{5, 9}, []int{0, 1}, 6, 4},
		"backwards":            {[]uint32{6, 5}, []int{0, 1}, 6, 4},
		"backwards in memory":  {[]uint32{5, 6}, []int{1, 0}, 1, 1},
		"the first and others": {[]uint32{0, 1, 2, 3}, []int{0, 1, 2, 3}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			u := newPaged(t)
			conn := u.dial(r.addr, 1)
			for i, slot := range c.slots {
				u.fillPage(c.at[i], slot)
			}
			if got := u.operations(conn, transport.OpWrite, c.slots, c.at); got != c.write {
				t.Errorf("a write was %d operations, not %d", got, c.write)
			}
			clear(u.mem)
			if got := u.operations(conn, transport.OpRead, c.slots, c.at); got != c.read {
				t.Errorf("a read was %d operations, not %d", got, c.read)
			}
			for i, slot := range c.slots {
				h, err := raid.ParseHeader(u.head(i))
				if err != nil || h.Page != raid.PageNo(slot) || h.CRC != raid.Checksum(u.page(c.at[i])) {
					t.Errorf("slot %d: header %+v, %v", slot, h, err)
				}
			}
		})
	}
}

// paged is a user whose pages can be chosen one by one; headers lie after them.
type paged struct{ *user }

const pagedPages = 32

func newPaged(t *testing.T) paged { return paged{newUser(t)} }

func (u paged) page(i int) []byte { return u.mem[i*transport.PageSize:][:transport.PageSize] }
func (u paged) head(i int) []byte {
	return u.mem[pagedPages*transport.PageSize+i*raid.HeaderSize:][:raid.HeaderSize]
}

func (u paged) fillPage(at int, slot uint32) {
	p := u.page(at)
	for i := range p {
		p[i] = byte(i*3) + byte(slot)*7
	}
}

// operations does a request and tells how many operations it was.
func (u paged) operations(c transport.Conn, op transport.Op, slots []uint32, at []int) uint32 {
	u.t.Helper()
	done := make(chan error)
	q := &transport.Request{Op: op, Chunk: chunk, Done: func(q *transport.Request) { done <- q.Err }}
	for i, slot := range slots {
		g := transport.Seg{Index: slot, Page: u.page(at[i]), Header: u.head(i)}
		if op == transport.OpWrite {
			h := raid.Header{Kind: raid.KindPage, Page: raid.PageNo(slot), Seq: 1, CRC: raid.Checksum(g.Page), Site: raid.Site{Volume: 1, Index: raid.Index(slot)}}
			h.Put(g.Header, nil)
		}
		q.Segs = append(q.Segs, g)
	}
	was := fabric.Operations(c)
	if err := c.Submit(q); err != nil {
		u.t.Fatal(err)
	}
	c.Kick()
	if err := <-done; err != nil {
		u.t.Fatal(err)
	}
	return fabric.Operations(c) - was
}
