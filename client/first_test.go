package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// opener is a metadata service that answers the first renewals with an error.
type opener struct {
	*fakeMeta
	errs  []error // of the first calls
	calls atomic.Int32
}

func (o *opener) Renew(ctx context.Context, v raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	if n := int(o.calls.Add(1)); n <= len(o.errs) {
		return 0, o.errs[n-1]
	}
	return o.fakeMeta.Renew(ctx, v, e, r)
}

// The first client of a volume does not serve it before the metadata service
// knows: else the next one would take it for one that nobody ever opened.
func TestFirstClientIsKnownBeforeItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(3)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
		lease := Lease{TTL: time.Hour, Renew: time.Hour}
		o := &opener{fakeMeta: newFakeMeta(l), errs: []error{ErrNoQuorum, errors.New("cut")}}
		v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = o, lease })
		if n := o.calls.Load(); n < 3 { // one more may have a report of what changed since
			t.Errorf("served after %d renewals, of which the first two failed", n)
		}
		closeTest(t, v)

		// Fenced, or told to end: it is not opened.
		o = &opener{fakeMeta: newFakeMeta(l), errs: []error{ErrFenced}}
		again := *l
		again.Epoch = 2
		cfg := Config{Layout: &again, Meta: o, Lease: lease, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
		if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrFenced) {
			t.Errorf("fenced while it opens: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		again.Epoch = 3
		mute := newFakeMeta(l)
		mute.mute = true
		cfg.Meta = mute
		if _, err := Open(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("told to end while it opens: %v", err)
		}
	})
}

// The first client needs K members of every group: without, it could write
// nothing there, and the next one would have nothing to recover from.
func TestFirstClientNeedsMembers(t *testing.T) {
	f := newFakeNet(6)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 4, M: 2}, 64, 1, 512)
	for _, id := range []string{"s0", "s1", "s2"} {
		f.kill(id)
	}
	cfg := Config{Layout: l, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
	if v, err := Open(t.Context(), cfg); err == nil {
		closeTest(t, v)
		t.Error("opened for the first time with 3 of 6 members")
	}
}
