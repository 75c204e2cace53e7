package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dmps/chaos/inproc"
	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
)

func TestScrubText(t *testing.T) {
	now := time.Now()
	done := client.ScrubStatus{Started: now.Add(-3 * time.Second), Finished: now, RowsTotal: 10, RowsDone: 10, SlotsVerified: 60, Bytes: 1 << 20}
	with := func(change func(*client.ScrubStatus)) client.ScrubStatus {
		s := done
		change(&s)
		return s
	}
	var none metaclient.Volume
	for name, c := range map[string]struct {
		st   client.ScrubStatus
		gone metaclient.Volume
		code int
		want []string
	}{
		"clean": {done, none, 0, []string{"60 slots of 10 rows", "Everything is right"}},
		"repaired": {with(func(s *client.ScrubStatus) {
			s.BadSlots, s.Repaired, s.Servers = 2, 2, []client.ScrubServer{{Server: "s3", Bad: 2}}
		}), none, 2, []string{"2 slots were wrong (s3 2), 2 of them"}},
		"unrepaired": {with(func(s *client.ScrubStatus) { s.BadSlots, s.Repaired, s.Unrepairable = 2, 1, 1 }), none, 3, []string{"1 slots are not repaired"}},
		"lost":       {done, metaclient.Volume{Report: &client.Report{LostPages: 4}}, 3, []string{"4 pages are lost"}},
		"gone, unknown which": {done, metaclient.Volume{Unknown: 7}, 3, []string{
			"v misses up to 7 pages, and nobody knows which: they read as zeros", "dmps volume accept-loss v",
		}},
		"gone and repaired": {with(func(s *client.ScrubStatus) { s.BadSlots, s.Repaired = 1, 1 }), metaclient.Volume{Unknown: 1}, 3, []string{"up to 1 page,"}},
		"incomplete": {with(func(s *client.ScrubStatus) {
			s.SlotsSkipped, s.Servers = 5, []client.ScrubServer{{Server: "s1", Skipped: 5, Problem: "it does not answer"}}
		}), none, 1, []string{"5 slots could not be verified (s1 5)", "s1: it does not answer", "Scrub again"}},
		"stopped":             {with(func(s *client.ScrubStatus) { s.Ended, s.RowsDone = "the scrub was stopped", 4 }), none, 1, []string{"after 4 of 10 rows"}},
		"repaired, in part":   {with(func(s *client.ScrubStatus) { s.BadSlots, s.Repaired, s.SlotsSkipped = 1, 1, 1 }), none, 1, []string{"incomplete"}},
		"incomplete and lost": {with(func(s *client.ScrubStatus) { s.BadSlots, s.Unrepairable, s.SlotsSkipped = 1, 1, 1 }), none, 3, nil},
	} {
		code := 0
		c.gone.Name = "v"
		r := scrubResultOf(c.st, c.gone)
		var e *exitError
		if errors.As(scrubExit(r), &e) {
			code = e.code
		}
		if code != c.code {
			t.Errorf("%s: exit code %d, not %d", name, code, c.code)
		}
		text := scrubText(r, palette{})
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in\n%s", name, w, text)
			}
		}
		if c.code != 0 && strings.Contains(text, "Everything is right") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

func TestScrubRemark(t *testing.T) {
	now := time.Now()
	last := &client.ScrubStatus{Finished: now.Add(-3 * time.Hour)}
	bad, some := *last, *last
	bad.BadSlots, bad.Unrepairable = 3, 1
	some.SlotsSkipped = 1
	told := some
	told.SkippedReason = "s3: it does not answer"
	early := client.ScrubStatus{Finished: now.Add(-119 * time.Minute), RowsDone: 4, RowsTotal: 9, Ended: client.ErrScrubStopped.Error()}
	for want, r := range map[string]*client.Report{
		"":                             {},
		"last scrub 3 h ago, 0 errors": {LastScrub: last, Scrub: last},
		"scrubbing, 43 %, 1 errors":    {LastScrub: last, Scrub: &client.ScrubStatus{Running: true, RowsTotal: 100, RowsDone: 43, BadSlots: 1}},
		"last scrub 3 h ago, 3 errors, 1 not repaired":                              {LastScrub: &bad},
		"last scrub 3 h ago, 0 errors, incomplete: 1 slot could not be verified":    {LastScrub: &some},
		"last scrub 3 h ago, 0 errors, incomplete: s3: it does not answer":          {LastScrub: &told},
		"a scrub ended early 119 min ago, after 4 of 9 rows: the scrub was stopped": {LastScrub: last, Scrub: &early},
	} {
		if got := scrubRemark(r, now, palette{}); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	for want, d := range map[string]time.Duration{"0 s": -time.Hour, "59 s": 59 * time.Second, "119 min": 119 * time.Minute, "47 h": 47 * time.Hour, "2 days": 49 * time.Hour} {
		if got := ago(d); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// TestScrubOrders orders scrubs over HTTP, of a volume on real servers.
func TestScrubOrders(t *testing.T) {
	c, err := inproc.Start(3, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	vol, err := inproc.Open(t.Context(), c.Layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 1024))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closeVolume(vol); err != nil {
			t.Error(err)
		}
	}()
	if _, err := vol.WriteAt(bytes.Repeat([]byte("some content, "), 1<<17), 0); err != nil {
		t.Fatal(err)
	}
	adm := newAdmin(false, slog.New(slog.DiscardHandler))
	adm.takeScrubs(vol, 256<<10) // some seconds
	adm.answer("/status", func() any { return adminStatus{Report: vol.Report()} })
	srv := httptest.NewServer(adm.handler())
	defer srv.Close()
	ctx := t.Context()

	if st, err := orderScrubStop(ctx, srv.URL); err != nil || !st.Started.IsZero() {
		t.Errorf("nothing to stop: %+v, %v", st, err)
	}
	first, running, err := orderScrub(ctx, srv.URL, scrubFlags{})
	if err != nil || running || !first.Running || first.Rate != 256<<10 {
		t.Fatalf("%+v, %v, %v", first, running, err)
	}
	again, running, err := orderScrub(ctx, srv.URL, scrubFlags{rateGiven: true, rate: 1})
	if err != nil || !running || !again.Started.Equal(first.Started) || again.Rate != first.Rate {
		t.Fatalf("a second one: %+v, %v, %v", again, running, err)
	}
	stopped, err := orderScrubStop(ctx, srv.URL)
	if err != nil || stopped.Running || stopped.Ended == "" {
		t.Fatalf("stopped: %+v, %v", stopped, err)
	}
	st, _, err := orderScrub(ctx, srv.URL, scrubFlags{rateGiven: true})
	if err != nil || st.Rate != 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	shown := 0
	st, last, err := awaitScrub(ctx, srv.URL, st, func(client.ScrubStatus) { shown++ })
	if err != nil || !st.Complete() || last.Report.LastScrub == nil || st.SlotsVerified == 0 || shown == 0 {
		t.Errorf("%+v, %+v, %v", st, last, err)
	}
	if _, _, err := awaitScrub(ctx, srv.URL, first, func(client.ScrubStatus) {}); err == nil {
		t.Error("waited for a scrub that nobody knows")
	}
	short, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	if _, _, err := awaitScrub(short, srv.URL, st, func(client.ScrubStatus) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	for _, c := range []struct {
		method, path, body, origin string
		want                       int
	}{
		{"GET", "/scrub", "", "", http.StatusMethodNotAllowed},
		{"GET", "/scrub/stop", "", "", http.StatusMethodNotAllowed},
		{"POST", "/scrub", "{", "", http.StatusBadRequest},
		{"POST", "/scrub", `{"rate": -1}`, "", http.StatusBadRequest},
		{"POST", "/scrub", "", "http://evil.example", http.StatusForbidden},
		{"POST", "/scrub/stop", "", "null", http.StatusForbidden},
	} {
		req, err := http.NewRequestWithContext(ctx, c.method, srv.URL+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.origin != "" {
			req.Header.Set("Origin", c.origin)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s %q from %q: %d, not %d", c.method, c.path, c.body, c.origin, res.StatusCode, c.want)
		}
	}
	b, err := json.Marshal(vol.Report())
	if err != nil || !bytes.Contains(b, []byte(`"last_scrub"`)) {
		t.Errorf("%s, %v", b, err)
	}
}
