package client

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// onLog is a logger that calls f with each message and the text of its attributes.
type onLog struct {
	slog.Handler
	f func(string)
}

func (h *onLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.Value.String(); return true })
	h.f(text)
	return nil
}

func (h *onLog) Enabled(context.Context, slog.Level) bool { return true }
func (h *onLog) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *onLog) WithGroup(string) slog.Handler            { return h }
func when(f func(string)) *slog.Logger                    { return slog.New(&onLog{f: f}) }

// written is a volume of two groups that was closed, and that the next client opens.
func written(t *testing.T) (*fakeNet, *raid.Layout) {
	f := newSlowNet(4)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 2}, 64, 2, 64)
	v := openTest(t, f, l)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), 64*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	again := *l
	again.Epoch, again.FirstEpoch = 2, false
	return f, &again
}

func viewOf(v *Volume, g raid.GroupID) uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.log.Witnesses(g).View
}

// A server falls silent when it is to be compared. The views wait for it as long as it may take to
// answer, which is longer than the patience, and no longer when it is away.
func TestViewsWaitForASilentComparison(t *testing.T) {
	for name, c := range map[string]struct {
		silent func(f *fakeNet)
		in     bool
	}{
		"frozen": {func(f *fakeNet) { freezeFor(f, "s3", 3*time.Second) }, true},
		"away":   {func(f *fakeNet) { f.down("s3", true) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, l := written(t)
				l.Groups[0].Members[3].State = raid.MemberRebuilding
				var once sync.Once
				cfg := Config{Layout: l, Dialer: f, ArenaBytes: 4 << 20, Patience: time.Second, DialTimeout: 10 * time.Second}
				cfg.Logger = when(func(text string) {
					if strings.Contains(text, errNotCompared.Error()) {
						once.Do(func() { c.silent(f) })
					}
				})
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				v, err := Open(ctx, cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer closeTest(t, v)
				if in := viewOf(v, 1)&(1<<2) != 0; in != c.in { // column 2 of group 1 is there
					t.Errorf("group 1 begins with the view %b", viewOf(v, 1))
				}
			})
		})
	}
}
