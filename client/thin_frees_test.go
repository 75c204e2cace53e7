package client

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// quietNet is a fakeNet of which one server stores page-outs and does not say so, and
// which is all gone when somebody is sent the record of a view.
type quietNet struct {
	*fakeNet
	who    string
	silent atomic.Bool
	stored atomic.Int32
	views  atomic.Bool
}

func (h *quietNet) Dial(ctx context.Context, addr string, hello transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := h.fakeNet.Dial(ctx, addr, hello, idle)
	if err != nil {
		return c, w, err
	}
	return &quietConn{Conn: c, h: h, addr: addr}, w, nil
}

type quietConn struct {
	transport.Conn
	h    *quietNet
	addr string
}

func (c *quietConn) Submit(r *transport.Request) error {
	if r.Op != transport.OpWrite {
		return c.Conn.Submit(r)
	}
	if r.Segs[0].Page == nil {
		hd, err := raid.ParseHeader(r.Segs[0].Header)
		if err == nil && hd.Kind == raid.KindView && c.h.views.Load() {
			for id := range c.h.servers {
				c.h.down(id, true)
			}
		}
		return c.Conn.Submit(r)
	}
	if c.addr != c.h.who || !c.h.silent.Load() {
		return c.Conn.Submit(r)
	}
	q := &transport.Request{Op: r.Op, Chunk: r.Chunk, Segs: r.Segs, Count: r.Count}
	q.Done = func(q *transport.Request) {
		if q.Err == nil {
			c.h.stored.Add(1)
		}
		go func() {
			<-c.Conn.Done()
			r.Err = transport.ErrClosed
			r.Done(r)
		}()
	}
	return c.Conn.Submit(q)
}

// A mirror of two. s1 is away, which is noted, and a page-out of page 0 goes to s0 alone,
// which stores it and is slow to say so. s1 is back, misses nothing, and the note is taken
// back. A write of page 1 reaches s0 only, and the client dies. The next one takes in the
// new version of page 0, which all have that it was sent to, moves page 1 over what page 0
// had before, and dies before it has served anything. Then s0 is away.
func TestThinRowFreesWhatWasAnswered(t *testing.T) {
	f := &quietNet{fakeNet: newFakeNet(2), who: "s0"}
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 2, 1, 6)
	m := &noter{fakeMeta: newFakeMeta(l)}
	open := func(patience time.Duration) (*Volume, error) {
		cfg := Config{Layout: l, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), DialTimeout: time.Second}
		patient(&cfg)
		cfg.Meta, cfg.Lease, cfg.Patience = m, Lease{TTL: time.Minute, Renew: 10 * time.Millisecond}, patience
		return Open(context.Background(), cfg)
	}
	again := func(patience time.Duration) (*Volume, error) {
		m.mu.Lock()
		m.layout.Epoch, m.layout.FirstEpoch = m.layout.Epoch+1, false
		m.mu.Unlock()
		var err error
		if l, err = m.Layout(context.Background(), 1, 0); err != nil {
			t.Fatal(err)
		}
		return open(patience)
	}
	v, err := open(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	first, second, other := randomBytes(r, raid.PageSize), randomBytes(r, raid.PageSize), randomBytes(r, raid.PageSize)
	if _, err := v.WriteAt(first, 0); err != nil {
		t.Fatal(err)
	}
	f.down("s1", true)
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.log.UpMembers(0) == 1 })
	f.silent.Store(true)
	done := make(chan error, 2)
	go func() { _, err := v.WriteAt(second, 0); done <- err }()
	waitFor(t, func() bool { return f.stored.Load() == 1 })
	if m.notes.Load() != 1 {
		t.Fatal("s1 is not noted")
	}
	f.down("s1", false)
	waitFor(t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		v.mu.Lock()
		defer v.mu.Unlock()
		return m.layout.Groups[0].Members[1].State == raid.MemberInSync && v.mu.version == m.layout.Version && v.mu.log.UpMembers(0) == 3
	})
	f.freeze("s1")
	go func() { _, err := v.WriteAt(other, raid.PageSize); done <- err }()
	waitFor(t, func() bool { return f.stored.Load() == 2 })
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	_ = v.Close(dead)
	for range 2 {
		if err := <-done; err == nil {
			t.Fatal("was answered")
		}
	}
	f.thaw("s1")
	f.silent.Store(false)

	dump := func(when string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, m := range l.Groups[0].Members {
			for i := range l.ChunkSlots {
				h, err := raid.ParseHeader(f.servers[m.Addr].chunks[uint64(m.Chunk)].hdrs[i*raid.HeaderSize:][:raid.HeaderSize])
				t.Logf("%s: %s row %d: kind %d page %d seq %x settled %x members %b (%v)", when, m.Addr, i, h.Kind, h.Page, h.Seq, h.Settled, h.Members, err)
			}
		}
	}
	dump("first client is dead")
	defer dump("in the end")
	f.views.Store(true)
	if v, err := again(time.Second); err == nil {
		_ = v.Close(dead)
		t.Fatal("it has served pages")
	} else {
		t.Log("the second client: ", err)
	}
	f.views.Store(false)
	dump("second client is dead")
	m.mu.Lock()
	sync := !slices.ContainsFunc(m.layout.Groups[0].Members, func(o raid.Member) bool { return o.State != raid.MemberInSync })
	m.mu.Unlock()
	t.Logf("all members are in sync: %v", sync)

	f.down("s0", true)
	f.down("s1", false)
	if v, err = again(5 * time.Second); err != nil {
		t.Skipf("refused loudly, which is right: %v", err)
	}
	defer closeTest(t, v)
	got := make([]byte, raid.PageSize)
	_, err = v.ReadAt(got, 0)
	rep := v.Report()
	t.Logf("opens: %s, %d lost, %d unknown; page 0: %v", rep.State, rep.LostPages, rep.Unknown, err)
	if err == nil && !bytes.Equal(got, first) && !bytes.Equal(got, second) {
		t.Errorf("an answered write is lost without a word: page 0 is neither version; zeros: %v", bytes.Equal(got, make([]byte, raid.PageSize)))
	}
}
