package main

import (
	"context"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/chaos/netfault"
	"dmps/chaos/plan"
	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
)

// lines is what a command printed so far.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// TestWatchingGoesOn: who watches is told once that nobody answers, and the
// command stays.
func TestWatchingGoesOn(t *testing.T) {
	s := startService(t, 1)
	u, err := url.Parse(s.node.APIURL())
	if err != nil {
		t.Fatal(err)
	}
	for name, watch := range map[string]func(*app, context.Context, *metaclient.Client) error{
		"top": func(a *app, ctx context.Context, m *metaclient.Client) error {
			return a.top(ctx, m, 100*time.Millisecond, false, true)
		},
		"status": func(a *app, ctx context.Context, m *metaclient.Client) error {
			return a.watchStatus(ctx, m, client.StateHealthy, "json", 100*time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := netfault.New(nil)
			defer n.Close()
			front, err := n.Front("watcher", plan.AllMeta, u.Host)
			if err != nil {
				t.Fatal(err)
			}
			m, err := metaclient.New([]string{"http://" + front}, metaclient.WithPatience(300*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			var out, errs lines
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- watch(&app{out: &out, err: &errs}, ctx, m) }()
			await := func(what string, is func() bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
					select {
					case err := <-ended:
						t.Fatalf("%s: it ended: %v\n%s", what, err, errs.String())
					default:
					}
					if time.Now().After(deadline) {
						t.Fatalf("%s: not within 20 s\n%s", what, errs.String())
					}
				}
			}
			await("a picture", func() bool { return strings.Contains(out.String(), "healthy") })
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			await("word of the silence", func() bool { return strings.Contains(errs.String(), "nobody tells") })
			silent := time.Now() // longer than the next two questions take
			await("going on", func() bool { return time.Since(silent) > 1500*time.Millisecond })
			stop()
			if err := <-ended; err != nil {
				t.Errorf("it ended with %v, not with the last state", err)
			}
			if n := strings.Count(errs.String(), "nobody tells"); n != 1 {
				t.Errorf("told %d times:\n%s", n, errs.String())
			}
		})
	}
}

// TestListOfSilentNodes: without a quorum each address is said to answer or not.
func TestListOfSilentNodes(t *testing.T) {
	var errs lines
	a := &app{out: io.Discard, err: &errs}
	if code := a.run([]string{"meta", "list", "--meta", "http://127.0.0.1:1", "--timeout", "200ms"}); code != exitcode.Unavailable {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(errs.String(), "http://127.0.0.1:1: no answer\n") {
		t.Error(errs.String())
	}
	errs.reset()
	s := startService(t, 0)
	m, err := metaclient.New([]string{s.node.APIURL()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	a.metaURLs = []string{s.node.APIURL()}
	if a.tellNodes(t.Context(), m); !strings.Contains(errs.String(), s.node.APIURL()+": answers, has applied ") {
		t.Error(errs.String())
	}
}
