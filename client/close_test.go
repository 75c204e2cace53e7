package client

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// book is a metadata service that writes down what it hears, and may not answer.
type book struct {
	*fakeMeta
	deadAfter int // calls that it answers; -1: all

	mu    sync.Mutex
	calls []string
	last  Report
}

func (b *book) hear(ctx context.Context, call string) error {
	b.mu.Lock()
	b.calls = append(b.calls, call)
	silent := b.deadAfter >= 0 && len(b.calls) > b.deadAfter
	b.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (b *book) Renew(ctx context.Context, v raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	if err := b.hear(ctx, "renew"); err != nil {
		return 0, err
	}
	b.mu.Lock()
	b.last = r
	b.mu.Unlock()
	b.fakeMeta.mu.Lock() // as the service does: a layout that is read later says it too
	b.layout.Unknown = max(b.layout.Unknown, r.Unknown)
	b.fakeMeta.mu.Unlock()
	return b.fakeMeta.Renew(ctx, v, e, r)
}

func (b *book) Detach(ctx context.Context, _ raid.VolumeID, _ raid.Epoch) error {
	return b.hear(ctx, "detach")
}

func (b *book) heard() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// What meta knows of a volume that nobody has attached is how it was left, not how
// it was when a report was last due. The sessions that Close ends are no members
// that are missing.
func TestLastReport(t *testing.T) {
	for _, whole := range []bool{true, false} {
		f := newFakeNet(3)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
		b := &book{fakeMeta: newFakeMeta(l), deadAfter: -1}
		v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = b, Lease{TTL: time.Hour, Renew: time.Hour} })
		page := make([]byte, raid.PageSize)
		page[0], page[1] = 1, 2
		if !whole {
			// The first report may go at once, the next one in many minutes.
			wait(t, "hearing that it is whole", v, func() bool { return b.heard().State == StateHealthy })
		}
		f.away("s0", true)
		if _, err := v.WriteAt(page, 0); err != nil {
			t.Fatal(err)
		}
		if whole {
			f.away("s0", false)
			wait(t, "healing", v, func() bool { return v.Report().State == StateHealthy })
			b.mu.Lock()
			b.last = Report{State: StateDegraded} // perhaps of the time between
			b.mu.Unlock()
		}
		closeTest(t, v)
		r := b.heard()
		if got := r.State == StateHealthy && len(r.Suspect) == 0 && r.DegradedGroups == 0; got != whole {
			t.Errorf("whole when it was closed: %v; meta has %+v", whole, r)
		}
		if !whole && (len(r.Suspect) != 1 || r.Suspect[0] != "s0") {
			t.Errorf("one server is away, meta has %v", r.Suspect)
		}
		if len(r.Behind) != 0 {
			t.Errorf("nothing is written any more, and %v are behind", r.Behind)
		}
		if calls := strings.Join(b.calls, " "); !strings.HasSuffix(calls, "renew detach") {
			t.Errorf("meta heard %s", calls)
		}
	}
}

// A metadata service that does not answer holds Close up for as long as its
// patience is, all in all; one that has only lost the report gets the lease back.
func TestCloseWithoutMeta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(3)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
		b := &book{fakeMeta: newFakeMeta(l), deadAfter: 1} // it hears that the volume is open
		v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = b, Lease{TTL: time.Hour, Renew: time.Hour} })
		begin := time.Now()
		err := v.Close(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "giving back the lease") {
			t.Errorf("closed with %v", err)
		}
		if took := time.Since(begin); took > leavePatience+time.Second {
			t.Errorf("closing took %v", took)
		}
		if n := len(b.calls); n < 2 || b.calls[n-1] != "detach" || b.calls[n-2] != "renew" {
			t.Errorf("meta was asked %v", b.calls)
		}
	})
}
