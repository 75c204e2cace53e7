package transporttest

import (
	"errors"
	"sync/atomic"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// A newer lease ends the session of an older one; what the old client still
// sends, and its new sessions, are refused.
func testFence(t *testing.T, m Medium) {
	old := newRig(t, m)
	oc := old.session()
	r := newRig(t, m)
	c := r.dial(r.hello(2), nil)
	if err := c.OpenChunk(ctx(t), chunk, spec); err != nil {
		t.Fatal(err)
	}
	w := r.request(transport.OpWrite, 5, 0, 1, 2, 3)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	stale := old.request(transport.OpWrite, 4, 0, 1, 2, 3)
	for i := range 1000 {
		if err := old.do(oc, stale); !errors.Is(err, transport.ErrClosed) {
			t.Fatalf("stale write %d: %v", i, err)
		}
		if i%100 == 0 {
			if _, _, err := old.d.Dial(ctx(t), m.Addr, old.hello(1), nil); !errors.Is(err, transport.ErrStaleEpoch) {
				t.Fatalf("stale dial: %v", err)
			}
		}
	}
	old.wait(oc.Done())
	if !errors.Is(oc.Err(), transport.ErrStaleEpoch) {
		t.Errorf("the fenced session ended with %v", oc.Err())
	}
	g := r.request(transport.OpRead, 0, 0, 1, 2, 3)
	if err := r.do(c, g); err != nil {
		t.Fatal(err)
	}
	r.same(g, w)
	// The same epoch again: the older session of the two ends, without a word
	// of a stale lease.
	again := newRig(t, m)
	ac := again.dial(again.hello(2), nil)
	r.wait(c.Done())
	if errors.Is(c.Err(), transport.ErrStaleEpoch) {
		t.Errorf("replaced session ended with %v", c.Err())
	}
	if err := again.do(ac, again.request(transport.OpRead, 0, 0)); err != nil {
		t.Error(err)
	}
}

// The old client writes as fast as it can while the new one takes over: from
// the moment that Dial returns nothing of the old one lands.
func testFenceUnderLoad(t *testing.T, m Medium) {
	for epoch := uint64(1); epoch < 20; epoch++ {
		old := newRig(t, m)
		oc := old.dial(old.hello(epoch), nil)
		if err := oc.OpenChunk(ctx(t), chunk, spec); err != nil {
			t.Fatal(err)
		}
		var running atomic.Bool
		running.Store(true)
		var all []uint32
		for i := range uint32(transport.MaxSegs) {
			all = append(all, i)
		}
		for range 4 {
			q := old.request(transport.OpWrite, 100+epoch, all...)
			q.Done = func(q *transport.Request) {
				if q.Err != nil {
					running.Store(false)
					if !errors.Is(q.Err, transport.ErrClosed) && !errors.Is(q.Err, transport.ErrStaleEpoch) {
						t.Error(q.Err)
					}
					return
				}
				if oc.Submit(q) == nil {
					oc.Kick()
				}
			}
			if err := oc.Submit(q); err != nil {
				t.Fatal(err)
			}
		}
		oc.Kick()
		r := newRig(t, m)
		c := r.dial(r.hello(epoch+1), nil)
		w := r.request(transport.OpWrite, 500, all...)
		if err := r.do(c, w); err != nil {
			t.Fatal(err)
		}
		old.wait(oc.Done())
		g := r.request(transport.OpRead, 0, all...)
		if err := r.do(c, g); err != nil {
			t.Fatal(err)
		}
		r.same(g, w)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader ends nobody, and neither writes nor creates.
func testReader(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	w := r.request(transport.OpWrite, 1, 0)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	h := r.hello(1)
	h.Mode = transport.ModeReader
	rc := r.dial(h, nil)
	g := r.request(transport.OpRead, 0, 0)
	if err := r.do(rc, g); err != nil {
		t.Fatal(err)
	}
	r.same(g, w)
	if err := r.do(rc, r.request(transport.OpWrite, 2, 0)); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a reader's write: %v", err)
	}
	if err := rc.OpenChunk(ctx(t), chunk+1, spec); !errors.Is(err, transport.ErrNoChunk) {
		t.Errorf("a reader's new chunk: %v", err)
	}
	if err := r.do(c, g); err != nil {
		t.Errorf("the owner: %v", err)
	}
}

func testHandshake(t *testing.T, m Medium) {
	r := newRig(t, m)
	for name, c := range map[string]struct {
		h    func(*transport.Hello)
		want error
	}{
		"cluster":           {func(h *transport.Hello) { h.Cluster += "x" }, transport.ErrRefused},
		"other incarnation": {func(h *transport.Hello) { h.Incarnation = m.Incarnation + 1 }, transport.ErrIncarnation},
		"its incarnation":   {func(h *transport.Hello) { h.Incarnation = m.Incarnation }, nil},
		"any incarnation":   {func(h *transport.Hello) {}, nil},
		"authentication":    {func(h *transport.Hello) { h.Auth = []byte("x") }, errAny},
	} {
		h := r.hello(3)
		c.h(&h)
		conn, _, err := r.d.Dial(ctx(t), m.Addr, h, nil)
		if c.want == errAny && err == nil || c.want != errAny && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	if _, _, err := r.d.Dial(ctx(t), "nowhere", r.hello(3), nil); err == nil {
		t.Error("dialled nowhere")
	}
}

var errAny = errors.New("any")

func testRegistration(t *testing.T, m Medium) {
	r := newRig(t, m)
	if err := r.d.Register(nil); err == nil {
		t.Error("no memory was registered")
	}
	if err := r.d.Register(r.mem[100:200]); err == nil {
		t.Error("memory was registered twice")
	}
	c := r.session()
	if err := r.d.Register(make([]byte, 10)); err == nil {
		t.Error("memory was registered after the first dial")
	}
	good := func() *transport.Request {
		q := r.request(transport.OpRead, 0, 0)
		q.Done = func(*transport.Request) {}
		return q
	}
	for name, spoil := range map[string]func(*transport.Request){
		"page that is not registered":   func(q *transport.Request) { q.Segs[0].Page = make([]byte, transport.PageSize) },
		"header that is not registered": func(q *transport.Request) { q.Segs[0].Header = make([]byte, raid.HeaderSize) },
		"short page":                    func(q *transport.Request) { q.Segs[0].Page = q.Segs[0].Page[:100] },
		"no segment":                    func(q *transport.Request) { q.Segs = nil },
		"no Done":                       func(q *transport.Request) { q.Done = nil },
		"operation":                     func(q *transport.Request) { q.Op = 77 },
		"too many segments":             func(q *transport.Request) { q.Segs = make([]transport.Seg, transport.MaxSegs+1) },
	} {
		q := good()
		spoil(q)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			_ = c.Submit(q)
		}()
	}
	if err := r.do(c, good()); err != nil {
		t.Errorf("after the misuse: %v", err)
	}
}
