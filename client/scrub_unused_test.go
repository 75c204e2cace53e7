package client

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// TestScrubClearsUnusedSlots damages headers of slots that are not in use. A scrub counts
// none of them, and has them erased: so a client opens the volume that does not reach M
// other members, from whom it could learn that nothing was there.
func TestScrubClearsUnusedSlots(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 1, M: 2}, {K: 2, M: 1}, {K: 2, M: 2}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			r := newScrubRig(t, g.Members())
			l := r.layout(g, 64, 1, 300)
			v := r.open(l)
			version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
			version = append([]uint64(nil), version...)
			m := l.Groups[0].Members
			last := raid.Col(g.Members() - 1)
			for _, i := range []raid.Index{299, 250, 180} {
				r.flip(m[last], i, raid.HeaderBytes(g, last), raid.PageSize+9)
			}
			if st := scrubNow(t, v, ScrubOptions{}); !st.Complete() || st.BadSlots != 0 {
				t.Errorf("%+v", st)
			}
			closeTest(t, v)
			for _, o := range m[:g.M] {
				r.hosts[o.Addr].Down(true)
			}
			l.Epoch, l.FirstEpoch = 2, false
			v = r.open(l, func(c *Config) { c.DialTimeout = time.Second })
			defer closeTest(t, v)
			verifyVersions(t, v, version)
		}))
	}
}

// TestScrubRestoresViews damages the record of the view at the members that a client
// reaches which comes later. A scrub has it written anew.
func TestScrubRestoresViews(t *testing.T) {
	virtual(func(t *testing.T) {
		g := raid.Geometry{K: 2, M: 2}
		r := newScrubRig(t, g.Members())
		l := r.layout(g, 64, 1, 300)
		v := r.open(l)
		version := append([]uint64(nil), fill(t, v, rand.New(rand.NewPCG(1, 1)))...)
		m := l.Groups[0].Members
		for c := g.M; c < g.Members(); c++ {
			for i := range raid.Index(raid.ViewRows) {
				r.flip(m[c], i, raid.HeaderBytes(g, raid.Col(c)), raid.PageSize+9)
			}
		}
		if st := scrubNow(t, v, ScrubOptions{}); !st.Complete() {
			t.Errorf("%+v", st)
		}
		waitFor(t, func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.mu.log.InView(0, 2) && v.mu.log.InView(0, 3)
		})
		// It dies: no other record is written.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		v.Close(ctx)
		for _, o := range m[:g.M] {
			r.hosts[o.Addr].Down(true)
		}
		l.Epoch, l.FirstEpoch = 2, false
		v = r.open(l, func(c *Config) { c.DialTimeout = time.Second })
		defer closeTest(t, v)
		verifyVersions(t, v, version)
	})(t)
}

// muteNet is a net whose servers refuse to tell headers while it is mute.
type muteNet struct {
	transport.Dialer
	mute atomic.Bool
}

func (n *muteNet) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := n.Dialer.Dial(ctx, addr, h, idle)
	if err != nil {
		return c, w, err
	}
	return &muteConn{Conn: c, n: n}, w, nil
}

type muteConn struct {
	transport.Conn
	n *muteNet
}

func (c *muteConn) Submit(r *transport.Request) error {
	if r.Op == transport.OpReadHeaders && c.n.mute.Load() {
		r.Err = transport.ErrRefused
		go r.Done(r)
		return nil
	}
	return c.Conn.Submit(r)
}

// A scrub that cannot read the headers of free rows says that it has not seen everything.
func TestScrubCountsUnusedThatItCannotRead(t *testing.T) {
	virtual(func(t *testing.T) {
		g := raid.Geometry{K: 2, M: 1}
		r := newScrubRig(t, g.Members())
		var net *muteNet
		v := r.open(r.layout(g, 64, 1, 300), func(c *Config) {
			net = &muteNet{Dialer: c.Dialer}
			c.Dialer = net
		})
		defer closeTest(t, v)
		fill(t, v, rand.New(rand.NewPCG(1, 1)))
		if st := scrubNow(t, v, ScrubOptions{}); !st.Complete() {
			t.Errorf("%+v", st)
		}
		net.mute.Store(true)
		if st := scrubNow(t, v, ScrubOptions{}); st.Complete() {
			t.Errorf("%+v", st)
		}
	})(t)
}
