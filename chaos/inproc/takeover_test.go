package inproc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dmps/client"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

// held is a cluster whose servers are reached through proxies.
func held(t *testing.T, n int) (*Cluster, []*Holder) {
	t.Helper()
	c, err := Start(n, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	var hs []*Holder
	for _, s := range c.Servers {
		h, err := Hold(s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		hs = append(hs, h)
	}
	return c, hs
}

// TestStaleWritesAreRefused has more than 10,000 writes of an older lease on
// their way to every one of four servers when a newer lease comes: all are
// refused, and what the new owner wrote to the same slots stays.
func TestStaleWritesAreRefused(t *testing.T) {
	const window, want = 256, 10000
	c, hs := held(t, 4)
	var refused, landed atomic.Int64
	var wg sync.WaitGroup
	for i, s := range c.Servers {
		wg.Go(func() {
			n := 0
			for epoch := uint64(1); n < want; epoch += 2 {
				r, l, err := staleRound(hs[i], s.Addr(), epoch, window)
				if err != nil {
					t.Errorf("server %d, epoch %d: %v", i, epoch, err)
					return
				}
				n += r + l
				refused.Add(int64(r))
				landed.Add(int64(l))
			}
		})
	}
	wg.Wait()
	t.Logf("%d writes refused, %d landed", refused.Load(), landed.Load())
	if landed.Load() != 0 || refused.Load() < want*int64(len(c.Servers)) {
		t.Errorf("%d stale writes were refused, %d landed", refused.Load(), landed.Load())
	}
}

// staleRound sends n writes of an old owner, which are held back until a new one
// has written the same slots.
func staleRound(h *Holder, direct string, epoch uint64, n int) (refused, landed int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	type side struct {
		d    tcp.Dialer
		conn transport.Conn
		mem  []byte
		errs chan error
	}
	open := func(addr string, epoch uint64, fill byte) (*side, error) {
		s := &side{mem: make([]byte, n*(raid.PageSize+raid.HeaderSize)), errs: make(chan error, n)}
		if err := s.d.Register(s.mem); err != nil {
			return nil, err
		}
		conn, w, err := s.d.Dial(ctx, addr, transport.Hello{Cluster: ClusterID, Volume: 1, Epoch: epoch, Client: "test"}, nil)
		if err != nil {
			return nil, errors.Join(err, s.d.Close())
		}
		if w.Window < n {
			return nil, fmt.Errorf("window of %d", w.Window)
		}
		s.conn = conn
		for i := range n {
			page := s.mem[i*raid.PageSize:][:raid.PageSize]
			for k := range page {
				page[k] = fill
			}
			binary.LittleEndian.PutUint64(page, epoch)
		}
		return s, conn.OpenChunk(ctx, 1, transport.ChunkSpec{Slots: uint32(n), HeaderBytes: raid.HeaderSize})
	}
	request := func(s *side, op transport.Op, i int, epoch uint64) error {
		page := s.mem[i*raid.PageSize:][:raid.PageSize]
		hdr := s.mem[n*raid.PageSize+i*raid.HeaderSize:][:raid.HeaderSize]
		if op == transport.OpWrite {
			h := raid.Header{Kind: raid.KindPage, Filled: 1, Members: 1, Page: raid.PageNo(i), Seq: raid.FirstSeq(raid.Epoch(epoch)), CRC: raid.Checksum(page), Site: raid.Site{Volume: 1, Index: raid.Index(i)}}
			h.Put(hdr, nil)
		}
		return s.conn.Submit(&transport.Request{
			Op: op, Chunk: 1, Segs: []transport.Seg{{Index: uint32(i), Header: hdr, Page: page}},
			Done: func(r *transport.Request) { s.errs <- r.Err },
		})
	}
	all := func(s *side, op transport.Op, epoch uint64) error {
		for i := range n {
			if err := request(s, op, i, epoch); err != nil {
				return err
			}
		}
		s.conn.Kick()
		return nil
	}
	wait := func(s *side) error {
		for range n {
			if err := <-s.errs; err != nil {
				return err
			}
		}
		return nil
	}
	old, err := open(h.Addr(), epoch, 0xa0)
	if err != nil {
		return 0, 0, fmt.Errorf("the old owner: %w", err)
	}
	defer func() { err = errors.Join(err, old.d.Close()) }()
	h.Stop()
	err = all(old, transport.OpWrite, epoch)
	var next *side
	if err == nil {
		next, err = open(direct, epoch+1, 0xb0)
	}
	if err == nil {
		err = errors.Join(all(next, transport.OpWrite, epoch+1), wait(next))
	}
	h.Go()
	if err != nil {
		return 0, 0, fmt.Errorf("the new owner: %w", err)
	}
	defer func() { err = errors.Join(err, next.conn.Close(), next.d.Close()) }()
	for range n {
		if err := <-old.errs; err == nil {
			landed++
		} else {
			refused++
		}
	}
	old.conn.Close() // it is over, and says why
	if _, _, err := old.d.Dial(ctx, h.Addr(), transport.Hello{Cluster: ClusterID, Volume: 1, Epoch: epoch}, nil); !errors.Is(err, transport.ErrStaleEpoch) {
		return 0, 0, fmt.Errorf("the old owner comes again: %w", err)
	}
	clear(next.mem)
	if err := errors.Join(all(next, transport.OpRead, epoch+1), wait(next)); err != nil {
		return 0, 0, fmt.Errorf("reading: %w", err)
	}
	for i := range n {
		if got := binary.LittleEndian.Uint64(next.mem[i*raid.PageSize:]); got != epoch+1 {
			landed++
		}
	}
	return refused, landed, nil
}

// TestTakeoverInTheMiddleOfBatches stops a client at different moments of a
// load, with writes on their way to every server, has another one take its volume
// and write, and lets the first one go on: it answers no write any more, nothing
// of it lands, and what it had answered before is what the new one found.
func TestTakeoverInTheMiddleOfBatches(t *testing.T) {
	for name, g := range map[string]raid.Geometry{"rs": {K: 4, M: 2}, "mirror": {K: 1, M: 2}} {
		t.Run(name, func(t *testing.T) {
			for round := range 6 {
				after := time.Duration(rand.N(30_000)) * time.Microsecond
				t.Run(fmt.Sprint("after ", after), func(t *testing.T) {
					c, hs := held(t, 6)
					takeover(t, c, hs, g, after, round)
				})
			}
		})
	}
}

const takeoverPages = 256

// stamp is a page's content: who wrote it, and which time.
func stamp(buf []byte, page int, who byte, n uint64) {
	for i := 0; i < len(buf); i += 32 {
		binary.LittleEndian.PutUint64(buf[i:], uint64(page))
		binary.LittleEndian.PutUint64(buf[i+8:], n)
		buf[i+16] = who
		buf[i+17] = byte(i)
	}
}

func stampOf(t *testing.T, buf []byte, page int) (who byte, n uint64) {
	t.Helper()
	who, n = buf[16], binary.LittleEndian.Uint64(buf[8:])
	want := make([]byte, raid.PageSize)
	if who != 0 {
		stamp(want, page, who, n)
	}
	if string(want) != string(buf) {
		t.Errorf("page %d is no page that anybody wrote", page)
	}
	return who, n
}

func takeover(t *testing.T, c *Cluster, hs []*Holder, g raid.Geometry, after time.Duration, round int) {
	l := c.Layout(raid.LayoutLog, g, takeoverPages)
	slow := *l
	slow.Groups = nil
	for _, gr := range l.Groups {
		ms := append([]raid.Member(nil), gr.Members...)
		for i := range ms {
			for k, s := range c.Servers {
				if ms[i].Addr == s.Addr() {
					ms[i].Addr = hs[k].Addr()
				}
			}
		}
		slow.Groups = append(slow.Groups, raid.Group{ID: gr.ID, Members: ms})
	}
	silent := func(cfg *client.Config) { cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil)) }
	a, err := Open(t.Context(), &slow, silent)
	if err != nil {
		t.Fatal(err)
	}
	var (
		answered [takeoverPages]atomic.Uint64 // newest that A answered
		begun    [takeoverPages]atomic.Uint64
		taken    atomic.Bool // B has answered a write
		late     atomic.Int64
		failed   atomic.Int64
		stop     atomic.Bool
		workers  sync.WaitGroup
	)
	for w := range 16 {
		workers.Go(func() {
			buf := make([]byte, raid.PageSize)
			for n := uint64(1); !stop.Load(); n++ {
				page := w + 16*rand.IntN(takeoverPages/16)
				stamp(buf, page, 'A', n)
				begun[page].Store(n)
				was := taken.Load()
				_, err := a.WriteAt(buf, int64(page)*raid.PageSize)
				switch {
				case err == nil && was:
					late.Add(1)
				case err == nil:
					answered[page].Store(n)
				default:
					failed.Add(1)
					if !errors.Is(err, client.ErrFenced) {
						t.Errorf("A's write ended with %v", err)
					}
					if failed.Load() > 1000 {
						return
					}
				}
			}
		})
	}
	time.Sleep(after)
	for _, h := range hs {
		h.Stop()
	}
	let := sync.OnceFunc(func() {
		for _, h := range hs {
			h.Go()
		}
	})
	defer let()
	l.Epoch, l.FirstEpoch = l.Epoch+1, false
	b, err := Open(t.Context(), l, silent)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, raid.PageSize)
	for page := range takeoverPages {
		floor, most := answered[page].Load(), begun[page].Load()
		if _, err := b.ReadAt(buf, int64(page)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		if who, n := stampOf(t, buf, page); n < floor || n > most || (n > 0 && who != 'A') {
			t.Errorf("round %d: page %d holds version %d of %c, A had answered %d and begun %d", round, page, n, who, floor, most)
		}
		stamp(buf, page, 'B', uint64(round+1))
		if _, err := b.WriteAt(buf, int64(page)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		taken.Store(true)
		if page == takeoverPages/2 {
			let() // A goes on while B writes
		}
	}
	for begin := time.Now(); failed.Load() < 1000; time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("A had %d writes refused after a minute", failed.Load())
		}
	}
	stop.Store(true)
	workers.Wait()
	if late.Load() != 0 {
		t.Errorf("round %d: A answered %d writes that began after B's first was answered", round, late.Load())
	}
	for page := range takeoverPages {
		if _, err := b.ReadAt(buf, int64(page)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		if who, n := stampOf(t, buf, page); who != 'B' || n != uint64(round+1) {
			t.Errorf("round %d: page %d holds version %d of %c, not B's", round, page, n, who)
		}
	}
	for _, v := range []*client.Volume{a, b} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := v.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}
