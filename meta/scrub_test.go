package meta

import (
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/state"
	"dmps/raid"
)

// What the last scrub found outlives the client that did it, the leader that
// heard of it, and a client that knows nothing of it.
func TestLastScrubIsRemembered(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 3)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 64 << 20, Redundancy: raid.Geometry{K: 1, M: 2}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"})
	if err != nil {
		t.Fatal(err)
	}
	healthy := client.Report{State: client.StateHealthy, RedundancyLeft: 2}
	renew := func(l *raid.Layout, r client.Report) {
		t.Helper()
		if _, err := c.Renew(t.Context(), l.Volume, l.Epoch, r); err != nil {
			t.Fatal(err)
		}
	}
	remembered := func(want *client.ScrubStatus) *client.Report {
		t.Helper()
		v, _, err := c.Volume(t.Context(), "v")
		if err != nil {
			t.Fatal(err)
		}
		if v.Report == nil {
			t.Fatal("no report")
		}
		got := v.Report.LastScrub
		if (got == nil) != (want == nil) || want != nil && (!got.Finished.Equal(want.Finished) || !got.Started.Equal(want.Started) ||
			got.SlotsVerified != want.SlotsVerified || got.SlotsSkipped != want.SlotsSkipped || got.SkippedReason != want.SkippedReason || got.BadSlots != want.BadSlots ||
			got.Repaired != want.Repaired || got.Unrepairable != want.Unrepairable) {
			t.Errorf("remembered %+v, want %+v", got, want)
		}
		return v.Report
	}
	renew(l, healthy)
	remembered(nil)

	now := time.Now().Truncate(time.Millisecond).UTC()
	first := &client.ScrubStatus{
		Started: now.Add(-time.Hour), Finished: now, RowsTotal: 10, RowsDone: 10, SlotsVerified: 20, SlotsSkipped: 1, SkippedReason: "s1: away", BadSlots: 3, Repaired: 2, Unrepairable: 1,
		Bytes: 5, Rate: 6, BytesPerSecond: 7,
	}
	r := healthy
	r.Scrub, r.LastScrub, r.BadSlots = &client.ScrubStatus{Running: true, Started: now, RowsTotal: 9, RowsDone: 4}, first, map[raid.ServerID]int64{"s1": 3}
	renew(l, r)
	if got := remembered(first); got.BadSlots["s1"] != 3 || got.Scrub == nil || !got.Scrub.Running || got.Scrub.RowsDone != 4 {
		t.Errorf("%+v", got)
	}

	// A client that knows nothing: nothing else has changed, then something has.
	renew(l, healthy)
	remembered(first)
	r = healthy
	r.State, r.DegradedGroups = client.StateDegraded, 1
	renew(l, r)
	remembered(first)
	stop(t, n)
	n = start(t, cfg)
	waitReady(t, n)
	c = newClient(t, time.Minute, n)
	remembered(first)
	if l, _, err = c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"}); err != nil {
		t.Fatal(err)
	}
	renew(l, healthy)
	remembered(first)

	second := *first
	second.Finished, second.SlotsSkipped, second.SkippedReason, second.BadSlots = now.Add(time.Minute), 0, "", 0
	r = healthy
	r.LastScrub = &second
	renew(l, r)
	remembered(&second)
	renew(l, healthy)
	stop(t, n)
	n = start(t, cfg)
	waitReady(t, n)
	c = newClient(t, time.Minute, n)
	remembered(&second)

	// Once it was said that a scrub left something out, and why.
	page, err := c.Events(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	told := slices.DeleteFunc(page.Events, func(e metaclient.Event) bool { return e.Kind != state.EventScrubIncomplete })
	if len(told) != 1 || told[0].Volume != "v" || told[0].Count != 1 || !strings.Contains(told[0].Text, "1 of 21 slots: s1: away") {
		t.Errorf("%+v", told)
	}
}
