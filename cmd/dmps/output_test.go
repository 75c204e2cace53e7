package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
)

func TestTable(t *testing.T) {
	p := palette{on: true}
	var tab table
	tab.row(p.head("NAME", "STATE", "LAST")...)
	tab.row("a", p.state("degraded"), "x")
	tab.row("läng", p.state("up"), "")
	var b bytes.Buffer
	if err := tab.print(&b); err != nil {
		t.Fatal(err)
	}
	plain := strings.NewReplacer(colourBold, "", colourGood, "", colourWarn, "", colourOff, "").Replace(b.String())
	want := "NAME  STATE     LAST\n" +
		"a     degraded  x\n" +
		"läng  up        \n"
	if plain != want {
		t.Errorf("got\n%s\nwant\n%s", plain, want)
	}
	if b.String() == plain {
		t.Error("no colours")
	}
	if s := (palette{}).state("failed"); s != "failed" {
		t.Errorf("coloured without a terminal: %q", s)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0 members", 1: "1 member", 2: "2 members"} {
		if got := count(n, "member"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSeverity(t *testing.T) {
	h, d, f := client.StateHealthy, client.StateDegraded, client.StateFailed
	for _, c := range []struct{ a, b, want client.State }{
		{h, h, h}, {h, d, d}, {d, h, d}, {d, f, f}, {f, h, f}, {h, "strange", "strange"}, {"strange", f, "strange"},
	} {
		if got := worse(c.a, c.b); got != c.want {
			t.Errorf("worse(%s, %s) = %s", c.a, c.b, got)
		}
	}
	if got := worstState(nil); got != h {
		t.Errorf("no volumes are %s", got)
	}
}

// TestLiveStatus: of meta's view and the client's the worse counts, and an
// answer of somebody else does not count.
func TestLiveStatus(t *testing.T) {
	live := adminStatus{Volume: "v", Epoch: 5, Report: client.Report{State: client.StateDegraded, DegradedGroups: 3, RedundancyLeft: 0}}
	adm := newAdmin(false, (&app{err: &bytes.Buffer{}}).logger())
	adm.answer("/status", func() any { return live })
	srv := httptest.NewServer(adm.mux)
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	volume := metaclient.Volume{
		Name: "v", State: client.StateHealthy, RedundancyLeft: 2,
		Lease: &metaclient.Lease{Epoch: 5, AdminURL: srv.URL},
	}

	got := liveStatus(t.Context(), volume)
	if !got.Live || got.State != client.StateDegraded || got.DegradedGroups != 3 || got.RedundancyLeft != 0 || got.Report == nil {
		t.Errorf("%+v", got)
	}
	worseAtMeta := volume
	worseAtMeta.State, worseAtMeta.RedundancyLeft = client.StateFailed, -1
	if got := liveStatus(t.Context(), worseAtMeta); got.State != client.StateFailed || got.RedundancyLeft != -1 {
		t.Errorf("the client's view hides the failure that meta sees: %+v", got)
	}
	older := volume
	older.Lease = &metaclient.Lease{Epoch: 6, AdminURL: srv.URL}
	if got := liveStatus(t.Context(), older); got.Live || got.LiveError == "" {
		t.Errorf("a client that was replaced was believed: %+v", got)
	}
	// A loss that was accepted, of which the client has not heard.
	live.Report = client.Report{State: client.StateFailed, Beside: client.StateHealthy, Unknown: 7, RedundancyLeft: 2, Known: 3}
	for version, want := range map[uint64]client.State{3: client.StateFailed, 4: client.StateHealthy} {
		accepted := volume
		accepted.Version = version
		if got := liveStatus(t.Context(), accepted); got.State != want || got.Report.State != want || (got.Unknown > 0) != (want == client.StateFailed) {
			t.Errorf("its client knows version 3 of %d: %s, %d unknown pages", version, got.State, got.Unknown)
		}
	}
	live.Volume = "other"
	if got := liveStatus(t.Context(), volume); got.Live || got.LiveError == "" {
		t.Errorf("the client of another volume was believed: %+v", got)
	}
	if got := liveStatus(t.Context(), metaclient.Volume{Name: "v", State: client.StateHealthy}); got.Live || got.LiveError != "" {
		t.Errorf("an unattached volume: %+v", got)
	}
	srv.Close()
	running := volume
	running.Lease = &metaclient.Lease{Epoch: 5, AdminURL: srv.URL, Remaining: time.Second} // meta hears of it
	if got := liveStatus(t.Context(), running); got.Live || got.LiveError == "" || got.Gone || got.State != client.StateHealthy {
		t.Errorf("a client that does not answer: %+v", got)
	}
	var unheard strings.Builder
	if err := headline(statusReport{State: client.StateHealthy, Volumes: []volumeStatus{liveStatus(t.Context(), running)}}, palette{}).print(&unheard); err != nil {
		t.Fatal(err)
	}
	if s := unheard.String(); !strings.HasPrefix(s, "HEALTHY: as last reported by the client of v, which does not answer now") {
		t.Error(s)
	}
	care := volume
	care.Lease = &metaclient.Lease{Care: true}
	if got := liveStatus(t.Context(), care); got.Gone || got.State != client.StateHealthy {
		t.Errorf("a caretaker's lease: %+v", got)
	}
	mute := volume
	mute.Lease = &metaclient.Lease{Holder: "h"} // has no admin address
	for _, v := range []metaclient.Volume{volume, mute} {
		got := liveStatus(t.Context(), v)
		if !got.Gone || got.State != client.StateDegraded || whole(&got) {
			t.Errorf("a client whose lease has run out, and that does not answer: %+v", got)
		}
		var out strings.Builder
		if err := renderStatus(&out, statusReport{State: got.State, Volumes: []volumeStatus{got}}, palette{}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if s := out.String(); !strings.HasPrefix(s, "DEGRADED: the client of v is gone") || !strings.Contains(s, "nobody serves it") {
			t.Error(s)
		}
	}
}

func TestSuspectServers(t *testing.T) {
	r := statusReport{
		Volumes: []volumeStatus{
			{Volume: metaclient.Volume{Report: &client.Report{Suspect: []raid.ServerID{"a", "b"}}}, Live: true},
			{Volume: metaclient.Volume{Report: &client.Report{Suspect: []raid.ServerID{"c"}}}}, // an old report
			{Live: true},
		},
		Servers: []metaclient.Server{{ID: "a", State: metaclient.ServerUp}, {ID: "b", State: metaclient.ServerDown}, {ID: "c", State: metaclient.ServerUp}},
	}
	suspectServers(&r)
	for i, want := range []string{metaclient.ServerSuspect, metaclient.ServerDown, metaclient.ServerUp} {
		if got := r.Servers[i].State; got != want {
			t.Errorf("%s is %s, want %s", r.Servers[i].ID, got, want)
		}
	}
}

func TestStatusForPeople(t *testing.T) {
	report := statusReport{
		Cluster: "c1", State: client.StateFailed,
		Volumes: []volumeStatus{
			{Volume: metaclient.Volume{
				Name: "swap0", State: client.StateFailed, Redundancy: "rs:4+2", Layout: "log", Size: 1 << 30, Groups: 4, DegradedGroups: 2, RedundancyLeft: -1,
				Lease:  &metaclient.Lease{Holder: "host1", Remaining: time.Second},
				Report: &client.Report{LostPages: 12},
			}},
			{Volume: metaclient.Volume{
				Name: "swap1", State: client.StateDegraded, Redundancy: "mirror:2", Layout: "log", Size: 1 << 20, Groups: 1, DegradedGroups: 1,
				Lease:  &metaclient.Lease{Holder: "host2"},
				Report: &client.Report{Suspect: []raid.ServerID{"s1", "s2"}},
			}},
			{Volume: metaclient.Volume{
				Name: "swap2", State: client.StateDegraded, Redundancy: "mirror:2", Layout: "log", Size: 1 << 20, Groups: 1, DegradedGroups: 1,
				Lease:  &metaclient.Lease{Holder: "host3", Remaining: time.Second},
				Report: &client.Report{Refused: []client.RefusedMember{{Server: "s4"}, {Server: "s3"}, {Server: "s4"}}},
			}},
		},
		Servers: []metaclient.Server{{ID: "s1", State: metaclient.ServerDown, Addr: "tcp://h:1", MemoryTotal: 1 << 30, MemoryUsed: 1 << 29, Labels: map[string]string{"rack": "r1", "host": "h"}}},
	}
	var out bytes.Buffer
	if err := (&app{out: &out}).printStatus(report, "table", false); err != nil {
		t.Fatal(err)
	}
	want := `FAILED: data is lost or cannot be written (0 of 1 memory servers up, cluster c1)

VOLUME  STATE     REDUNDANCY  LAYOUT  SIZE   GROUPS  DEGRADED  CAN LOSE        ATTACHED TO
swap0   failed    rs:4+2      log     1 GiB  4       2         pages are gone  host1                      12 pages lost
swap1   degraded  mirror:2    log     1 MiB  1       1         0               host2 (lease has run out)  no answer from s1, s2
swap2   degraded  mirror:2    log     1 MiB  1       1         0               host3                      no memory for 3 members on s3, s4

SERVER  STATE  ADDRESS    MEMORY  USED              PROMISED  CHUNKS  LABELS
s1      down   tcp://h:1  1 GiB   █████░░░░░  50 %  0 B       0       host=h rack=r1
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestVolumeMetrics(t *testing.T) {
	m := &volumeMetrics{"v", func() client.Report {
		return client.Report{
			State: client.StateDegraded, DegradedGroups: 2, LostPages: 1, MappedPages: 3,
			Counters: map[string]int64{"hedged_reads": 7, "Strange name": 1},
		}
	}}
	adm := newAdmin(false, (&app{err: &bytes.Buffer{}}).logger())
	if err := adm.reg.Register(m); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	adm.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`dmps_client_hedged_reads{volume="v"} 7`,
		`dmps_client_strange_name{volume="v"} 1`,
		`dmps_volume_state{state="degraded",volume="v"} 1`,
		`dmps_volume_state{state="failed",volume="v"} 0`,
		`dmps_volume_state{state="healthy",volume="v"} 0`,
		`dmps_volume_degraded_groups{volume="v"} 2`,
		`dmps_volume_lost_pages{volume="v"} 1`,
		`dmps_volume_stored_bytes{volume="v"} 12288`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
}

func TestHealthz(t *testing.T) {
	adm := newAdmin(true, (&app{err: &bytes.Buffer{}}).logger())
	var sick error
	adm.health(func() error { return sick })
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		adm.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := ask("/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("%d %q", code, body)
	}
	sick = errors.New("fenced")
	if code, body := ask("/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "fenced") {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := ask("/debug/pprof/"); code != http.StatusOK {
		t.Errorf("profiles: %d", code)
	}
	if code, body := ask("/metrics"); code != http.StatusOK || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d", code)
	}
}

// What others sent drives no terminal.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"s1":                        "s1",
		"a\nb\tc":                   "a\nb\tc",
		"\x1b[31mfailed\x1b[0m":     "\x1b[31mfailed\x1b[0m",
		"x\x1b]0;pwned\x07\x1b[2Jy": `x\x1b]0;pwned\a\x1b[2Jy`,
		"\u009b2J\u202e":            `\u009b2J\u202e`,
		"\xff":                      "\ufffd",
		"Grüße":                     "Grüße",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
	var tab table
	tab.row("ghost\x1b[2J", "up")
	if strings.Contains(tab.rows[0][0], "\x1b") {
		t.Errorf("%q is printed", tab.rows[0][0])
	}
}
