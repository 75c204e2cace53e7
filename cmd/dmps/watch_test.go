package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dmps/client"
	"dmps/internal/bytesize"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// noon is now in these tests.
var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// rebuildingVolume misses a third of 3000 rows.
func rebuildingVolume() volumeStatus {
	return volumeStatus{
		Live: true,
		Volume: metaclient.Volume{
			Name: "swap0", State: client.StateDegraded, Redundancy: "rs:4+2", Layout: "log", Size: 1 << 30, Groups: 4, DegradedGroups: 3,
			RedundancyLeft: 1, Rebuilding: 5, AtRiskSince: noon.Add(-200 * time.Second),
			Lease: &metaclient.Lease{Holder: "host1", Epoch: 3, Remaining: time.Second, AdminURL: "http://a"},
			Report: &client.Report{
				State: client.StateDegraded, RedundancyLeft: 1,
				Rebuild: &client.RebuildReport{
					RowsLeft: 1000, RowsTotal: 3000, BytesPerSecond: 150 << 20, RemainingSeconds: 12.4, HeldBack: true,
					AtRiskSince: noon.Add(-201 * time.Second), MembersLeft: 5, Members: []client.RebuildMember{},
				},
			},
		},
	}
}

func TestStatusOfARebuild(t *testing.T) {
	stuck := metaclient.Volume{
		Name: "swap1", State: client.StateDegraded, Redundancy: "mirror:2", Layout: "log", Size: 1 << 20, Groups: 1, DegradedGroups: 1,
		StuckMembers: 2, StuckReason: "group 0, member 1: no server to spare", AtRiskSince: noon.Add(-3 * time.Hour), Pending: 4,
	}
	report := statusReport{
		Cluster: "c1", State: client.StateDegraded,
		Volumes: []volumeStatus{rebuildingVolume(), {Volume: stuck}},
		Servers: []metaclient.Server{
			{ID: "s1", State: metaclient.ServerDraining, Draining: true, Addr: "h:1", MemoryTotal: 1 << 30, MemoryUsed: 1 << 29, Chunks: 7},
			{ID: "s2", State: metaclient.ServerDown, Addr: "h:2", MemoryTotal: 1 << 30, AwaySince: noon.Add(-50 * time.Second)},
		},
		Rebalancing: &metaclient.Rebalancing{Threshold: 5, Moved: 12},
		Copysets:    metaclient.Copysets{Sets: 8, Repairs: 3, Away: 40, Failures: 2, Loss: 0.0123},
	}
	var out strings.Builder
	if err := renderStatus(&out, report, palette{}, noon); err != nil {
		t.Fatal(err)
	}
	want := `DEGRADED: all data is there, with less redundancy than promised (1 of 2 memory servers up, cluster c1)

VOLUME  STATE     REDUNDANCY  LAYOUT  SIZE   GROUPS  DEGRADED  CAN LOSE  ATTACHED TO
swap0   degraded  rs:4+2      log     1 GiB  4       3         1         host1        rebuilding, 1000 rows left
swap1   degraded  mirror:2    log     1 MiB  1       1         0         -

swap0 rebuilds  █████████████░░░░░░░  66 %  1000 of 3000 rows left   150 MiB/s  12 s left  at risk for 3 min 21 s  held back for the foreground
swap1 has been at risk for 3 h 0 min
swap1 has 4 members on the way to other servers
swap1 has 2 members that cannot be replaced: group 0, member 1: no server to spare
  Start another one on another host, rack or zone, whichever the volume keeps apart, with 'dmps server --memory SIZE' and true labels, or free memory on the servers that are there; 'dmps server list' shows what they lend.
server s1 is being drained: 7 chunks left
server s2 has been away for 50 s
memory use is being evened out to within 5 %: 12 members moved
groups lie on 8 combinations of servers: if 2 of the 2 servers fail at once, data is lost with a probability of 1.2 %; 3 of them are of repairs, until 40 members are home

SERVER  STATE     ADDRESS  MEMORY  USED              PROMISED  CHUNKS  LABELS
s1      draining  h:1      1 GiB   █████░░░░░  50 %  0 B       7       
s2      down      h:2      1 GiB   ░░░░░░░░░░   0 %  0 B       0       
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestTop(t *testing.T) {
	sample := func(at time.Duration, ops int64, slow uint64, v volumeStatus) *topSample {
		v.Report.Counters = map[string]int64{"read_ops": ops, "read_bytes": ops * 4096, "write_ops": 0, "write_bytes": 0}
		l := latencies{At: noon.Add(at), Epoch: 3}
		bounds := client.BucketBounds()
		l.Read[slices.IndexFunc(bounds, func(b int64) bool { return b > 100_000 })] = uint64(ops)
		l.Read[slices.IndexFunc(bounds, func(b int64) bool { return b > 5_000_000 })] = slow
		return &topSample{
			at:     l.At,
			report: statusReport{Cluster: "c1", State: v.State, Volumes: []volumeStatus{v}},
			lat:    map[string]latencies{"swap0": l},
		}
	}
	// Many slow requests before the window do not count in it.
	before := sample(0, 100_000, 50_000, rebuildingVolume())
	after := sample(2*time.Second, 102_000, 50_000, rebuildingVolume())
	r := diffTop(before, after)
	io := r.Volumes[0].IO
	if io == nil || io.Read.OpsPerSecond != 1000 || io.Read.BytesPerSecond != 4096_000 || io.Read.P99 < 90_000 || io.Read.P99 > 130_000 || io.Write.P99 != 0 {
		t.Fatalf("two seconds with 2000 reads of 100 µs: %+v", io)
	}
	io.Read.P50, io.Read.P99 = 104_000, 114_600
	var out strings.Builder
	if err := renderTop(&out, r, palette{}); err != nil {
		t.Fatal(err)
	}
	want := `DEGRADED: all data is there, with less redundancy than promised (0 of 0 memory servers up, cluster c1)

VOLUME  STATE     CAN LOSE  IN/S  IN           P50     P99     OUT/S  OUT    P50  P99  ATTACHED TO
swap0   degraded  1         1000  3.91 MiB/s   104 µs  115 µs  0      0 B/s  -    -    host1        rebuilding, 1000 rows left

swap0 rebuilds  █████████████░░░░░░░  66 %  1000 of 3000 rows left   150 MiB/s  12 s left  at risk for 3 min 23 s  held back for the foreground
`
	if d := cmp.Diff(collapse(want), collapse(out.String())); d != "" {
		t.Error(d)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Interval int64 `json:"interval_ns"`
		State    string
		Volumes  []struct {
			Name string
			IO   *struct {
				Read struct {
					P99 int64   `json:"p99_ns"`
					Ops float64 `json:"ops_per_second"`
				}
			}
			Report struct {
				Rebuild struct {
					RowsLeft int  `json:"rows_left"`
					HeldBack bool `json:"held_back"`
				}
			}
		}
	}
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Volumes) != 1 || back.Volumes[0].IO == nil || back.Volumes[0].IO.Read.Ops != 1000 || back.Volumes[0].Report.Rebuild.RowsLeft != 1000 ||
		back.Interval != int64(2*time.Second) || back.State != "degraded" {
		t.Errorf("JSON: %s", b)
	}
	// A client that was restarted, or is asked for the first time, has no rates.
	if r := diffTop(nil, after); r.Volumes[0].IO != nil {
		t.Error("rates of one sample")
	}
	other := after.lat["swap0"]
	other.Epoch++
	after.lat["swap0"] = other
	if r := diffTop(before, after); r.Volumes[0].IO != nil {
		t.Error("rates over a restart")
	}
}

// collapse makes runs of blanks one blank: how wide columns are is tested
// elsewhere.
func collapse(s string) string {
	var lines []string
	for l := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n")
}

func TestShortTime(t *testing.T) {
	for ns, want := range map[int64]string{
		0: "-", 7: "7 ns", 999: "999 ns", 1000: "1.00 µs", 12_345: "12.3 µs", 123_456: "123 µs", 999_600: "1.00 ms", 2_500_000: "2.50 ms", 3e9: "3.00 s", 99_960: "100 µs",
	} {
		if got := shortTime(ns); got != want {
			t.Errorf("%d ns: %q, want %q", ns, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		340 * time.Millisecond: "340 ms", 12400 * time.Millisecond: "12 s", 200 * time.Second: "3 min 20 s", 125 * time.Minute: "2 h 5 min",
		100 * time.Hour: "4 days", -time.Second: "0 ms",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestScreen(t *testing.T) {
	p := palette{on: true}
	long := "ab" + p.paint(colourBad, "cdefgh") + "ij"
	for _, c := range []struct {
		columns int
		want    string
	}{
		{0, long}, {10, long}, {5, "ab" + colourBad + "cd…" + colourOff}, {1, "…" + colourBad + colourOff}, {3, "ab" + colourBad + "…" + colourOff},
	} {
		got := clip(long, c.columns)
		if got != c.want || c.columns > 0 && visibleWidth(got) > c.columns {
			t.Errorf("%d columns: %q, want %q", c.columns, got, c.want)
		}
	}
	got := screen("one\ntwo\nthree\nfour\n", 4, 4)
	want := termHome + "one" + termEOL + "\ntwo" + termEOL + "\n…" + termEOL + "\n" + termRest
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestEvents(t *testing.T) {
	e := metaclient.Event{Seq: 12, At: noon.Local(), Kind: "server-down", Server: "s1", Text: "server s1 is down"}
	want := "    12  " + noon.Local().Format(time.DateTime) + "  server-down         server s1 is down"
	if got := eventLine(&e, palette{}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for text, want := range map[string]eventsSince{
		"17": {set: true, seq: 17}, "0": {set: true}, "10m": {set: true, age: 10 * time.Minute}, "1h30m": {set: true, age: 90 * time.Minute},
	} {
		var s eventsSince
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("--since %s: %+v, %v", text, s, err)
		}
		var again eventsSince
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%+v prints as %s", s, s.String())
		}
	}
	for _, text := range []string{"", "-5", "-3m", "0s", "yesterday"} {
		if err := new(eventsSince).Set(text); err == nil {
			t.Errorf("--since %q is taken", text)
		}
	}
	for _, c := range []struct {
		f    eventFilter
		want bool
	}{{eventFilter{}, true}, {eventFilter{server: "s1"}, true}, {eventFilter{server: "s2"}, false}, {eventFilter{volume: "v"}, false}} {
		if c.f.wants(&e) != c.want {
			t.Errorf("%+v", c.f)
		}
	}
}

func TestRebuildSummary(t *testing.T) {
	healthy := volumeStatus{Volume: metaclient.Volume{Name: "v", State: client.StateHealthy, RedundancyLeft: 2}}
	failed := volumeStatus{Volume: metaclient.Volume{Name: "v", State: client.StateFailed, RedundancyLeft: -1, Report: &client.Report{LostPages: 9}}}
	away := volumeStatus{Volume: metaclient.Volume{Name: "v", State: client.StateFailed, RedundancyLeft: -1, Lease: &metaclient.Lease{}}}
	unheard := volumeStatus{Volume: metaclient.Volume{
		Name: "v", State: client.StateDegraded, DegradedGroups: 1, Lease: &metaclient.Lease{},
		Report: &client.Report{Suspect: []raid.ServerID{"s1"}},
	}}
	detached := volumeStatus{Volume: metaclient.Volume{Name: "v", State: client.StateDegraded, DegradedGroups: 1, Rebuilding: 3}}
	unknown := volumeStatus{Volume: metaclient.Volume{
		Name: "v", State: client.StateFailed, RedundancyLeft: 2, Unknown: 7, Lease: &metaclient.Lease{Remaining: time.Second},
		Report: &client.Report{State: client.StateFailed, Beside: client.StateHealthy, Unknown: 7, RedundancyLeft: 2},
	}}
	more := rebuildingVolume()
	more.Report.Rebuild.RowsAdded = 500
	both := unknown
	both.RedundancyLeft, both.Report = -1, &client.Report{State: client.StateFailed, Unknown: 7, RedundancyLeft: -1, Suspect: []raid.ServerID{"s1"}}
	misses := "v misses up to 7 pages, and nobody knows which: they read as zeros, and others perhaps as older versions. When what uses it has been seen to: dmps volume accept-loss v"
	for _, c := range []struct {
		name   string
		answer metaclient.RebuildAnswer
		v      volumeStatus
		code   int
		want   []string
	}{
		{"whole", metaclient.RebuildAnswer{}, healthy, 0, []string{"v: whole, can lose 2 servers"}},
		{"under way", metaclient.RebuildAnswer{Replaced: 5, Suspect: []raid.ServerID{"s1", "s2"}, Waiting: 3}, rebuildingVolume(), exitcode.Degraded, []string{
			"swap0: 5 members to be replaced, without waiting for s1, s2",
			"swap0: 3 members more to be replaced when others are filled",
			"swap0: █████████████░░░░░░░  66 %  1000 of 3000 rows left   150 MiB/s  12 s left  at risk for 3 min 21 s  held back for the foreground",
		}},
		{"more than before", metaclient.RebuildAnswer{}, more, exitcode.Degraded, []string{
			"swap0: █████████████░░░░░░░  66 %  1000 of 3000 rows left (500 came on top)   150 MiB/s  12 s left  at risk for 3 min 21 s  held back for the foreground",
		}},
		{"lost", metaclient.RebuildAnswer{}, failed, exitcode.Lost, []string{
			"v: 9 pages lost: more members were gone at a time than the redundancy can bear. Reading them gives an error until they are written again",
			"v: is not attached. What replacements miss is filled as soon as a client attaches it, or a server takes that on",
		}},
		{"gone, unknown which", metaclient.RebuildAnswer{}, unknown, exitcode.Lost, []string{misses}},
		{"gone, and out of reach", metaclient.RebuildAnswer{}, both, exitcode.Lost, []string{
			misses, "v: data is out of reach, or cannot be written, until servers come back",
			"v: the client has no answer from s1, but the metadata service heard of it moments ago: try again in some seconds, or use --watch",
		}},
		{"too few", metaclient.RebuildAnswer{Stuck: 2, StuckReason: "group 1: 3 of the 4 members that are needed to rebuild are there: it waits for the servers that are down"}, away, exitcode.Lost, []string{
			"v: data is out of reach, or cannot be written, until servers come back",
			"v: 2 members cannot be replaced: group 1: 3 of the 4 members that are needed to rebuild are there: it waits for the servers that are down",
			"'dmps server list' shows which are away. If their processes live (frozen, or cut off), wake or reconnect them: a server that is restarted is empty.",
		}},
		{"not heard of by meta", metaclient.RebuildAnswer{}, unheard, exitcode.Degraded, []string{
			"v: the client has no answer from s1, but the metadata service heard of it moments ago: try again in some seconds, or use --watch",
		}},
		{"detached", metaclient.RebuildAnswer{Replaced: 3}, detached, exitcode.Degraded, []string{
			"v: 3 members to be replaced",
			"v: is not attached. What replacements miss is filled as soon as a client attaches it, or a server takes that on",
		}},
	} {
		if d := cmp.Diff(c.want, append(rebuildDone(c.answer, &c.v), rebuildSummary(c.answer, &c.v, noon)...)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		code := 0
		if err := rebuildExit(&c.v); err != nil {
			code = codeOf(err)
		}
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.name, code, c.code)
		}
	}
}

// Watching ends when nothing is left that a rebuild could fill, and not before.
func TestRebuildWatchEnds(t *testing.T) {
	lease := &metaclient.Lease{Remaining: time.Second}
	failed := metaclient.Volume{Name: "v", State: client.StateFailed, Lease: lease, Report: &client.Report{State: client.StateFailed}}
	gone, lost, filling, away := failed, failed, failed, failed
	gone.Unknown, filling.Unknown, filling.Rebuilding, away.RedundancyLeft = 7, 7, 1, -1
	lost.Report = &client.Report{State: client.StateFailed, LostPages: 9}
	gone.Report = &client.Report{State: client.StateFailed, Unknown: 7, Beside: client.StateHealthy}
	for name, c := range map[string]struct {
		v    metaclient.Volume
		want string
	}{
		"gone, unknown which":  {gone, "dmps volume accept-loss v"},
		"lost":                 {lost, "9 pages lost"},
		"gone, and filled yet": {filling, "goes on without being watched"},
		"out of reach":         {away, "goes on without being watched"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what has not ended by then is interrupted
		var out bytes.Buffer
		r := &rebuildRun{app: &app{out: &out, err: &out}, volume: "v"}
		if err := r.watch(ctx, metaclient.RebuildAnswer{}, volumeStatus{Volume: c.v}); err == nil || codeOf(err) != exitcode.Lost {
			t.Errorf("%s: %v", name, err)
		}
		if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); !strings.Contains(lines[len(lines)-1], c.want) || strings.Count(out.String(), c.want) != 1 {
			t.Errorf("%s: %q is not at the end, or more than once, of\n%s", name, c.want, out.String())
		}
	}
}

// rebuildOrders takes what the client's admin address is told.
type rebuildOrders struct {
	rates []int64
	wakes int
}

func (o *rebuildOrders) SetRebuildRate(r int64) { o.rates = append(o.rates, r) }
func (o *rebuildOrders) WakeRebuild()           { o.wakes++ }

func TestOrderRebuild(t *testing.T) {
	var got rebuildOrders
	adm := newAdmin(false, slog.New(slog.DiscardHandler))
	takeRebuild(adm.mux, &got)
	srv := httptest.NewServer(adm.handler())
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	rate, none := 5*bytesize.MiB, bytesize.Size(0)
	for _, r := range []*bytesize.Size{nil, &rate, &none} {
		if err := orderRebuild(t.Context(), srv.URL, r); err != nil {
			t.Fatal(err)
		}
	}
	if got.wakes != 3 || !slices.Equal(got.rates, []int64{5 << 20, 0}) {
		t.Errorf("%+v", got)
	}
	post := func(query, origin string) int {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, srv.URL+"/rebuild"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if c := post("?rate=fast", ""); c != http.StatusBadRequest {
		t.Errorf("rate=fast: %d", c)
	}
	if c := post("?rate=1", "http://evil.example"); c != http.StatusForbidden {
		t.Errorf("from a browser: %d", c)
	}
	if res, err := http.Get(srv.URL + "/rebuild"); err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v %v", res, err)
	} else {
		res.Body.Close()
	}
	if got.wakes != 3 || len(got.rates) != 2 {
		t.Errorf("a refused order was carried out: %+v", got)
	}
	srv.Close()
	if err := orderRebuild(t.Context(), srv.URL, nil); err == nil {
		t.Error("nobody is there, and no error")
	}
	var out bytes.Buffer
	if err := printLine(&out, map[string]int{"a": 1}); err != nil || out.String() != "{\"a\":1}\n" {
		t.Errorf("%q %v", out.String(), err)
	}
}

// A rebuild that cannot go on has no time left: it says what it waits for.
func TestRebuildThatWaits(t *testing.T) {
	for want, r := range map[string]client.Report{
		"waits for s3, s4 to come back with what they hold":          {Suspect: []raid.ServerID{"s3", "s4"}},
		"waits until lost pages (12) are written anew or trimmed":    {LostPages: 12},
		"what they hold, and until lost pages (12) are written anew": {LostPages: 12, Suspect: []raid.ServerID{"s3"}},
		"waits for members that hold the rest":                       {},
	} {
		v := rebuildingVolume()
		rebuild := *v.Report.Rebuild
		rebuild.Blocked = true
		r.Rebuild = &rebuild
		v.Report = &r
		var out strings.Builder
		if err := renderStatus(&out, statusReport{Volumes: []volumeStatus{v}}, palette{}, noon); err != nil {
			t.Fatal(err)
		}
		if s := out.String(); !strings.Contains(s, want) || !strings.Contains(s, "rebuild waits, 1000 rows left") || strings.Contains(s, " s left") || strings.Contains(s, "held back") {
			t.Errorf("%q is not in, or a time left is\n%s", want, s)
		}
	}
}
