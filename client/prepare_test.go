package client

import (
	"context"
	"strings"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// noted is a network that notes the epochs that servers were shown.
type noted struct {
	*fakeNet
	epochs chan uint64
}

func (n *noted) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	n.epochs <- h.Epoch
	return n.fakeNet.Dial(ctx, addr, h, idle)
}

// What this machine refuses is refused before any server hears of an epoch, so also
// before a lease is needed; and what was prepared with an older layout is opened under
// the epoch of the lease.
func TestPrepareShowsNoServerAnEpoch(t *testing.T) {
	f := newFakeNet(3)
	n := &noted{f, make(chan uint64, 64)}
	old := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	old.Epoch, old.FirstEpoch = 0, false // as it is before the first attach
	cfg := Config{Layout: old, Dialer: n, ArenaBytes: 1 << 50, Logger: quiet(), AllowSwappable: true}
	if _, err := Prepare(cfg); err == nil || !strings.Contains(err.Error(), "mapping") {
		t.Errorf("an arena of 1 PiB: %v", err)
	}
	cfg.ArenaBytes = 4 << 20
	p, err := Prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if p, err = Prepare(cfg); err != nil {
		t.Fatal(err)
	}
	other := *old
	other.Volume, other.Epoch = 2, 9
	if _, err := p.Open(t.Context(), &other, Lease{}); err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("the layout of another volume: %v", err)
	}
	if len(n.epochs) != 0 {
		t.Fatalf("a server was shown epoch %d", <-n.epochs)
	}

	if p, err = Prepare(cfg); err != nil {
		t.Fatal(err)
	}
	l := *old
	l.Epoch, l.FirstEpoch, l.Unknown = 7, true, 5
	v, err := p.Open(t.Context(), &l, Lease{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if e := <-n.epochs; e != 7 {
			t.Errorf("a server was shown epoch %d, the lease has 7", e)
		}
	}
	if _, err := v.WriteAt(make([]byte, raid.PageSize), 0); err != nil {
		t.Error(err)
	}
	if got := v.Report().Unknown; got != 5 {
		t.Errorf("%d pages are unknown, the layout of the lease says 5", got)
	}
	closeTest(t, v)
}

// Volumes whose slots are overwritten number their writes by the epoch too.
func TestPreparedInPlaceTakesTheEpoch(t *testing.T) {
	f := newFakeNet(2)
	l := f.layout(raid.LayoutStriped, raid.Geometry{K: 1}, 64, 2, 32)
	before := *l
	before.Epoch = 0
	p, err := Prepare(Config{Layout: &before, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), AllowSwappable: true})
	if err != nil {
		t.Fatal(err)
	}
	after := *l
	after.Epoch = 3
	v, err := p.Open(t.Context(), &after, Lease{})
	if err != nil {
		t.Fatal(err)
	}
	if v.mu.seq < raid.FirstSeq(3) {
		t.Errorf("sequence number %d is of an earlier lease", v.mu.seq)
	}
	closeTest(t, v)
}
