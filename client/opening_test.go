package client

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/raid"
)

// logged is what was logged so far.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Whoever opens a volume of which servers do not answer is told what is waited for,
// and for whom, while it lasts and not longer.
func TestOpeningIsTold(t *testing.T) { virtual(testOpeningIsTold)(t) }

func testOpeningIsTold(t *testing.T) {
	f := newSlowNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	var log logged
	to := func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
	closeTest(t, openTest(t, f, l, to))
	if s := log.String(); strings.Contains(s, "still opening") {
		t.Errorf("told of an open that took no time: %s", s)
	}
	f.freeze("s1")
	again := *l
	again.Epoch, again.FirstEpoch = 2, false
	v := openTest(t, f, &again, to, func(c *Config) { c.DialTimeout = 3*tellOpening + tellOpening/2 })
	told := func() int { return strings.Count(log.String(), "still opening") }
	if n := told(); n != 3 || !strings.Contains(log.String(), "no_answer_from=[s1]") || !strings.Contains(log.String(), "waiting for memory servers") {
		t.Errorf("told %d times: %s", n, log.String())
	}
	time.Sleep(3 * tellOpening)
	if n := told(); n != 3 {
		t.Errorf("told of an open that is over: %s", log.String())
	}
	f.thaw("s1")
	closeTest(t, v)
}

// unregistering is a network that takes so many pieces of memory, and no more.
type unregistering struct {
	*fakeNet
	takes  int
	closed bool
}

func (n *unregistering) Register([]byte) error {
	if n.takes--; n.takes < 0 {
		return errUnregistered
	}
	return nil
}

func (n *unregistering) Close() error {
	n.closed = true
	return n.fakeNet.Close()
}

var errUnregistered = errors.New("no memory can be registered")

// An open that fails before there is a session ends with its reason, and gives back
// what it took.
func TestOpenFailsBeforeSessions(t *testing.T) {
	f := newFakeNet(1)
	for takes := range 3 {
		n := &unregistering{fakeNet: f, takes: takes}
		_, err := Open(t.Context(), Config{
			Layout: f.layout(raid.LayoutLog, raid.Geometry{K: 1}, 64, 1, 512), Dialer: n, ArenaBytes: 1 << 20, AllowSwappable: true, Logger: quiet(),
		})
		if !errors.Is(err, errUnregistered) || !n.closed {
			t.Errorf("%d pieces are taken: %v, closed: %v", takes, err, n.closed)
		}
	}
}
