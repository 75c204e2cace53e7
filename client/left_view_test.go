package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// holdNet is a fakeNet of which one server lets a page-out lie.
type holdNet struct {
	*fakeNet
	who   string
	mu    sync.Mutex
	armed bool
	held  int
}

func (h *holdNet) Dial(ctx context.Context, addr string, hello transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := h.fakeNet.Dial(ctx, addr, hello, idle)
	if err != nil || addr != h.who {
		return c, w, err
	}
	return &holdConn{Conn: c, h: h}, w, nil
}

type holdConn struct {
	transport.Conn
	h *holdNet
}

func (c *holdConn) Submit(r *transport.Request) error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.h.armed && r.Op == transport.OpWrite && r.Segs[0].Page != nil {
		c.h.armed = false
		c.h.held++
		go func() {
			<-c.Conn.Done()
			r.Err = transport.ErrClosed
			r.Done(r)
		}()
		return nil
	}
	return c.Conn.Submit(r)
}

// Two writes are on their way. Server s0 has the second one, which is answered, and is
// cut off before it has the first one, which is placed anew without it. The view of the
// group is without s0 from then on, and believes what s0 has up to before the first
// write. The client is closed, s0 is back with all that it ever held, and only then
// s2 is restarted empty. Never was more than one of three members away or lost at once.
func TestAnsweredWriteAtMemberThatLeftTheView(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	f := &holdNet{fakeNet: newFakeNet(4), who: "s0"}
	l := f.layout(raid.LayoutLog, g, 64, 2, 200)
	var r = rand.New(rand.NewPCG(1, 1))
	open := func() (*Volume, error) {
		cfg := Config{Layout: l, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: 5e9, DialTimeout: 1e9}
		patient(&cfg)
		return Open(context.Background(), cfg)
	}
	v, err := open()
	if err != nil {
		t.Fatal(err)
	}
	want := randomBytes(r, 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.armed = true
	f.mu.Unlock()
	write := func(p int) chan error {
		done := make(chan error, 1)
		copy(want[p*raid.PageSize:], randomBytes(r, raid.PageSize))
		go func() {
			_, err := v.WriteAt(want[p*raid.PageSize:][:raid.PageSize], int64(p)*raid.PageSize)
			done <- err
		}()
		return done
	}
	var late chan error
	for p := 1; late == nil; p++ {
		done := write(p)
		waitFor(t, func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.held == 1 {
				late = done
			}
			return f.held == 1 || len(done) == 1
		})
	}
	for range 2 { // groups take turns
		if err := <-write(0); err != nil {
			t.Fatal(err) // page 0 is answered
		}
	}
	f.down("s0", true)
	if err := <-late; err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return v.doomed() == 0 })
	compareAll(t, v, want)
	closeTest(t, v)

	f.down("s0", false) // is back, with all that it held
	f.kill("s2")
	f.restart("s2") // is lost
	l.Epoch, l.FirstEpoch = 2, false
	v, err = open()
	if err != nil {
		t.Skipf("refused loudly, which is right: %v", err)
	}
	defer closeTest(t, v)
	t.Logf("the volume opens: %+v", v.Report())
	compareAll(t, v, want)
}

// viewNet is a fakeNet of which one server is gone as soon as anybody is sent the
// record of a view.
type viewNet struct {
	*fakeNet
	who   string
	mu    sync.Mutex
	armed bool
}

func (h *viewNet) Dial(ctx context.Context, addr string, hello transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := h.fakeNet.Dial(ctx, addr, hello, idle)
	if err != nil {
		return c, w, err
	}
	return &viewConn{Conn: c, h: h}, w, nil
}

type viewConn struct {
	transport.Conn
	h *viewNet
}

func (c *viewConn) Submit(r *transport.Request) error {
	if r.Op == transport.OpWrite && r.Segs[0].Page == nil {
		hd, err := raid.ParseHeader(r.Segs[0].Header)
		c.h.mu.Lock()
		now := c.h.armed && err == nil && hd.Kind == raid.KindView
		c.h.armed = c.h.armed && !now
		c.h.mu.Unlock()
		if now {
			c.h.down(c.h.who, true)
		}
	}
	return c.Conn.Submit(r)
}

// The last write is answered, and the client dies. The next one reads all headers, and
// s0 is away before the first view is written, which is without it. That client is closed
// as it should be. s0 is back, with all that it held, and then s2 is restarted empty.
func TestAnsweredWriteAtMemberThatLeftWhileOpening(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(map[bool]string{false: "lost", true: "replaced"}[replaced], func(t *testing.T) { leftWhileOpening(t, replaced) })
	}
}

func leftWhileOpening(t *testing.T, replaced bool) {
	g := raid.Geometry{K: 2, M: 1}
	f := &viewNet{fakeNet: newFakeNet(g.Members()), who: "s0"}
	l := f.layout(raid.LayoutLog, g, 64, 1, 200)
	r := rand.New(rand.NewPCG(1, 1))
	open := func() (*Volume, error) {
		cfg := Config{Layout: l, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: 5e9, DialTimeout: 1e9}
		patient(&cfg)
		return Open(context.Background(), cfg)
	}
	v, err := open()
	if err != nil {
		t.Fatal(err)
	}
	want := randomBytes(r, 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	copy(want, randomBytes(r, raid.PageSize))
	if _, err := v.WriteAt(want[:raid.PageSize], 0); err != nil {
		t.Fatal(err)
	}
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	_ = v.Close(dead) // it dies: nothing is tidied up

	f.mu.Lock()
	f.armed = true
	f.mu.Unlock()
	l.Epoch, l.FirstEpoch = 2, false
	if v, err = open(); err != nil {
		t.Fatal(err)
	}
	compareAll(t, v, want)
	closeTest(t, v)

	f.down("s0", false)
	f.kill("s2")
	f.restart("s2")
	l.Epoch = 3
	if replaced {
		m := &l.Groups[0].Members[2]
		m.Incarnation, m.Chunk, m.State = raid.Incarnation(f.servers["s2"].inc), 99, raid.MemberRebuilding
	}
	if v, err = open(); err != nil {
		t.Skipf("refused loudly, which is right: %v", err)
	}
	defer closeTest(t, v)
	rep := v.Report()
	t.Logf("the volume opens: %s, %d groups degraded, %d pages lost, %d unknown", rep.State, rep.DegradedGroups, rep.LostPages, rep.Unknown)
	compareAll(t, v, want)
}
