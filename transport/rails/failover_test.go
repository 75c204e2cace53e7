package rails_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/rails"
)

const (
	volume = 7
	chunk  = 70
	slots  = 64
)

var spec = transport.ChunkSpec{Slots: slots, HeaderBytes: raid.HeaderSize}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// mapMemory is n bytes outside the Go heap, until the test ends.
func mapMemory(t testing.TB, n int) []byte {
	t.Helper()
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b
}

// session opens one with the rig's server, and mem registered.
func (r *rig) session(t testing.TB, epoch uint64, mem []byte) transport.Conn {
	t.Helper()
	d := newDialer()
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	c, _, err := d.Dial(within(t), r.addr, transport.Hello{Cluster: "c", Volume: volume, Epoch: epoch, Client: t.Name()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.OpenChunk(within(t), chunk, spec); err != nil {
		t.Fatal(err)
	}
	return c
}

// seg cuts a segment off registered memory.
func seg(mem *[]byte, index uint32) transport.Seg {
	m := *mem
	s := transport.Seg{Index: index, Page: m[:transport.PageSize:transport.PageSize]}
	m = m[transport.PageSize:]
	s.Header, *mem = m[:raid.HeaderSize:raid.HeaderSize], m[raid.HeaderSize:]
	return s
}

func fill(s transport.Seg, seq uint64) {
	for i := 0; i < len(s.Page); i += 8 {
		binary.LittleEndian.PutUint64(s.Page[i:], seq*slots+uint64(s.Index))
	}
	h := raid.Header{Kind: raid.KindPage, Page: raid.PageNo(s.Index), Seq: raid.Seq(seq), CRC: raid.Checksum(s.Page), Site: raid.Site{Volume: volume, Index: raid.Index(s.Index)}}
	h.Put(s.Header, nil)
}

// do waits for one request; it fails the test when that takes a minute.
func do(t testing.TB, c transport.Conn, q *transport.Request) error {
	done := make(chan struct{})
	q.Done = func(*transport.Request) { close(done) } // twice panics
	for {
		err := c.Submit(q)
		if err == nil {
			break
		}
		if !errors.Is(err, transport.ErrWindowFull) {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
	c.Kick()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("a request was lost")
		select {}
	}
	return q.Err
}

// load has writers, each with slots of its own, write versions and read them
// back: what is answered must be there, and nothing older may come over it later.
type load struct {
	t     testing.TB
	stop  atomic.Bool
	count atomic.Int64
	worst atomic.Int64 // time of a request, ns
	wg    sync.WaitGroup
}

func startLoad(t testing.TB, c transport.Conn, mem []byte) *load {
	l := &load{t: t}
	const writers, each = 16, 4
	for w := range writers {
		var segs, back []transport.Seg
		for i := range each {
			segs = append(segs, seg(&mem, uint32(w*each+i)))
			back = append(back, seg(&mem, uint32(w*each+i)))
		}
		l.wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			stored := make([]uint64, each)
			for seq := uint64(1); !l.stop.Load(); seq++ {
				from := rnd.IntN(each)
				to := from + 1 + rnd.IntN(each-from)
				for i := from; i < to; i++ {
					fill(segs[i], seq)
					stored[i] = seq
				}
				began := time.Now()
				err := do(t, c, &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: segs[from:to]})
				if err == nil {
					err = do(t, c, &transport.Request{Op: transport.OpRead, Chunk: chunk, Segs: back})
				}
				if err != nil {
					t.Errorf("writer %d, version %d: %v", w, seq, err)
					return
				}
				for d := int64(time.Since(began)); ; {
					if o := l.worst.Load(); o >= d || l.worst.CompareAndSwap(o, d) {
						break
					}
				}
				for i := range back {
					if stored[i] != 0 && (!bytes.Equal(back[i].Page, segs[i].Page) || !bytes.Equal(back[i].Header, segs[i].Header)) {
						t.Errorf("writer %d: slot %d does not hold version %d", w, back[i].Index, stored[i])
						return
					}
				}
				l.count.Add(1)
			}
		})
	}
	return l
}

// more waits until n further rounds were done.
func (l *load) more(n int64) {
	l.t.Helper()
	for end, want := time.Now().Add(time.Minute), l.count.Load()+n; l.count.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) || l.t.Failed() {
			l.t.Fatal("the load does not go on")
		}
	}
}

func (l *load) end() {
	l.stop.Store(true)
	l.wg.Wait()
}

// Under load the rails are cut and frozen in turn. No request is lost, completed
// twice or answered with an error, no write lands late, and the rail comes back.
func TestFailover(t *testing.T) {
	r := start(t, server.Config{}, true)
	mem := mapMemory(t, 1<<20)
	failover(t, r, r.session(t, 1, mem), mem, 10, true)
}

func failover(t *testing.T, r *rig, c transport.Conn, mem []byte, rounds int, freeze bool) {
	t.Helper()
	l := startLoad(t, c, mem)
	defer l.end() // before the memory goes
	l.more(50)
	for round := range rounds {
		k := r.link[round%2]
		hurt, heal := k.cut, k.mend
		if freeze && round/2%2 == 1 {
			hurt, heal = func() { k.freeze(true) }, func() { k.freeze(false) }
		}
		l.worst.Store(0)
		hurt()
		deadline := time.Now().Add(5 * time.Second)
		for up := 2; up == 2; up, _ = c.(transport.Railed).Rails() {
			if time.Now().After(deadline) {
				t.Fatal("the rail is not taken for dead")
			}
			time.Sleep(time.Millisecond)
		}
		l.more(300)
		t.Logf("round %d: the slowest of 300 took %v", round, time.Duration(l.worst.Load()))
		heal()
		if err := allUp(within(t), c); err != nil {
			t.Fatalf("the rail did not come back: %v", err)
		}
		l.more(50)
	}
	l.end()
	select {
	case <-c.Done():
		t.Errorf("the session ended: %v", c.Err())
	default:
	}
}

// What a frozen rail holds of a write that went on by another one must not land
// over a newer write when it thaws.
func TestLateWrite(t *testing.T) {
	r := start(t, server.Config{}, true)
	mem := mapMemory(t, 2<<20)
	c := r.session(t, 1, mem)
	for round := range 20 {
		rest := mem[:]
		var last []transport.Seg
		r.link[round%2].freeze(true)
		for i := range uint32(32) {
			s := seg(&rest, i)
			for seq := range uint64(4) {
				fill(s, uint64(round)*4+seq+1)
				if err := do(t, c, &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: []transport.Seg{s}}); err != nil {
					t.Fatal(err)
				}
			}
			last = append(last, s)
		}
		r.link[round%2].freeze(false)
		if err := allUp(within(t), c); err != nil {
			t.Fatal(err)
		}
		for _, s := range last {
			at := rest
			g := seg(&at, s.Index)
			if err := do(t, c, &transport.Request{Op: transport.OpRead, Chunk: chunk, Segs: []transport.Seg{g}}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(g.Page, s.Page) || !bytes.Equal(g.Header, s.Header) {
				t.Fatalf("round %d: slot %d was overwritten by an older write", round, s.Index)
			}
		}
	}
}

// An idle rail whose server end was lost is found when it is used, and all rails
// down end the session, as one does without others.
func TestAllRailsDown(t *testing.T) {
	r := start(t, server.Config{}, true)
	mem := mapMemory(t, 1<<20)
	c := r.session(t, 1, mem)
	l := startLoad(t, c, mem)
	l.more(20)
	l.stop.Store(true)
	l.wg.Wait()
	rest := mem
	s := seg(&rest, 1)
	fill(s, 1)
	r.gate.Stall(true)
	done := make(chan struct{})
	q := &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: []transport.Seg{s}, Done: func(*transport.Request) { close(done) }}
	if err := c.Submit(q); err != nil {
		t.Fatal(err)
	}
	c.Kick()
	for _, k := range r.link {
		k.cut()
	}
	r.gate.Stall(false)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a request was lost")
	}
	if !errors.Is(q.Err, transport.ErrClosed) {
		t.Errorf("request: %v", q.Err)
	}
	select {
	case <-c.Done():
	case <-time.After(time.Minute):
		t.Fatal("the session goes on without a rail")
	}
	for _, k := range r.link {
		k.mend()
	}
	c2 := r.session(t, 1, mapMemory(t, 1<<20))
	if up, all := c2.(transport.Railed).Rails(); up != 2 || all != 2 {
		t.Errorf("a new session has %d of %d rails", up, all)
	}
}

// A rail that was ended for its silence, and is being dialled again, keeps the
// session when the other one dies meanwhile: the server is alive. What is submitted
// then waits, and goes on with it.
func TestLastRailIsOnItsWayBack(t *testing.T) {
	r := start(t, server.Config{}, true)
	mem := mapMemory(t, 1<<20)
	c := r.session(t, 1, mem)
	rest := mem
	s, g := seg(&rest, 1), seg(&rest, 1)
	for round := range 4 {
		last := round % 2
		r.link[last].freeze(true)
		rails.Suspect(c, last)
		upIs(t, c, 1)
		r.link[1-last].cut()
		upIs(t, c, 0)
		fill(s, uint64(round)+1)
		time.AfterFunc(50*time.Millisecond, func() { r.link[last].freeze(false) })
		for _, q := range []*transport.Request{{Op: transport.OpWrite, Segs: []transport.Seg{s}}, {Op: transport.OpRead, Segs: []transport.Seg{g}}} {
			q.Chunk = chunk
			if err := do(t, c, q); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(s.Page, g.Page) {
			t.Errorf("round %d: the page is not what was written", round)
		}
		r.link[1-last].mend()
		if err := allUp(within(t), c); err != nil {
			t.Fatal(err)
		}
	}
}

// upIs waits until so many rails are up.
func upIs(t *testing.T, c transport.Conn, want int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		up, _ := c.(transport.Railed).Rails()
		if up == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d rails are up, want %d", up, want)
		}
	}
}

// One address that leads nowhere costs the session a rail, not the volume.
func TestOneAddressDead(t *testing.T) {
	r := start(t, server.Config{}, true)
	for i := range 2 {
		for _, frozen := range []bool{false, true} {
			if frozen {
				r.link[i].freeze(true)
			} else {
				r.link[i].cut()
			}
			mem := mapMemory(t, 1<<20)
			d := newDialer()
			if err := d.Register(mem); err != nil {
				t.Fatal(err)
			}
			c, _, err := d.Dialer.Dial(within(t), r.addr, transport.Hello{Cluster: "c", Volume: volume, Epoch: 1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.OpenChunk(within(t), chunk, spec); err != nil {
				t.Fatal(err)
			}
			l := startLoad(t, c, mem)
			l.more(20)
			r.link[i].mend()
			r.link[i].freeze(false)
			if err := allUp(within(t), c); err != nil {
				t.Fatal(err)
			}
			l.more(20)
			l.end()
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// The old owner writes on both rails while one of them is cut, dialled again and
// joins, and a new owner comes, of a newer epoch or of the same: from then on nothing
// of the old one lands, by no rail.
func TestFenceAllRails(t *testing.T) {
	r := start(t, server.Config{}, true)
	mem, oldMem := mapMemory(t, 1<<20), mapMemory(t, 16<<20)
	for round := range uint64(20) {
		old := r.session(t, 1+round/2, oldMem[round<<19:])
		var running sync.WaitGroup
		rest := oldMem[round<<19:][:1<<19]
		for range 4 {
			q := &transport.Request{Op: transport.OpWrite, Chunk: chunk}
			for i := range uint32(transport.MaxSegs / 2) {
				s := seg(&rest, i)
				fill(s, 100+round)
				q.Segs = append(q.Segs, s)
			}
			running.Add(1)
			q.Done = func(q *transport.Request) {
				if q.Err == nil && old.Submit(q) == nil {
					old.Kick()
					return
				}
				running.Done()
			}
			if err := old.Submit(q); err != nil {
				t.Fatal(err)
			}
		}
		old.Kick()
		r.link[round/2%2].cut()
		r.link[round/2%2].mend()
		c := r.session(t, 1+(round+1)/2, mem) // new every second time
		for i := range uint32(transport.MaxSegs / 2) {
			rest := mem
			s, g := seg(&rest, i), seg(&rest, i)
			fill(s, 500+round)
			for _, q := range []*transport.Request{{Op: transport.OpWrite, Segs: []transport.Seg{s}}, {Op: transport.OpRead, Segs: []transport.Seg{g}}} {
				q.Chunk = chunk
				if err := do(t, c, q); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(s.Page, g.Page) || !bytes.Equal(s.Header, g.Header) {
				t.Fatalf("round %d: the old owner wrote slot %d", round, i)
			}
		}
		select {
		case <-old.Done():
		case <-time.After(time.Minute):
			t.Fatal("the older session goes on")
		}
		running.Wait()
		if stale := errors.Is(old.Err(), transport.ErrStaleEpoch); stale != (round%2 == 1) {
			t.Errorf("round %d: the older session ended with %v", round, old.Err())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
