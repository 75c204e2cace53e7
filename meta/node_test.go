package meta

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
)

func TestOneNode(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	ctx := t.Context()
	registerServers(t, c, 6)

	if _, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "big", Size: 100 * gib, Redundancy: raid.Geometry{K: 1}}); !errors.Is(err, metaclient.ErrNoSpace) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("volume that does not fit: %v", err)
	}
	if _, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "wide", Size: gib, Redundancy: raid.Geometry{K: 8, M: 2}}); !errors.Is(err, metaclient.ErrTooFewDomains) {
		t.Errorf("wider than the cluster: %v", err)
	}
	if _, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "-", Size: gib, Redundancy: raid.Geometry{K: 1}}); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("bad name: %v", err)
	}
	v, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "swap0", Size: gib, Redundancy: raid.Geometry{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if v.State != client.StateHealthy || v.RedundancyLeft != 2 || v.Redundancy != "rs:4+2" || v.Size != gib {
		t.Errorf("created: %+v", v)
	}
	if _, err := c.CreateVolume(ctx, metaclient.VolumeSpec{Name: "swap0", Size: gib, Redundancy: raid.Geometry{K: 1}}); !errors.Is(err, metaclient.ErrExists) {
		t.Errorf("second of the name: %v", err)
	}

	l1, lease, err := c.Attach(ctx, client.AttachRequest{Volume: "swap0", Holder: "a", AdminURL: "http://a"})
	if err != nil {
		t.Fatal(err)
	}
	if !l1.FirstEpoch || l1.Validate() != nil || lease.TTL != 10*time.Second || lease.Renew <= 0 {
		t.Errorf("first attach: first %v, %v, %v", l1.FirstEpoch, l1.Validate(), lease)
	}
	_, _, err = c.Attach(ctx, client.AttachRequest{Volume: "swap0", Holder: "b"})
	var inUse *metaclient.InUseError
	if !errors.Is(err, client.ErrInUse) || !errors.As(err, &inUse) || inUse.Holder != "a" || inUse.Remaining <= 0 || inUse.AdminURL != "http://a" {
		t.Errorf("attach of another: %v", err)
	}
	if err := c.DeleteVolume(ctx, "swap0", false); !errors.Is(err, client.ErrInUse) {
		t.Errorf("delete while attached: %v", err)
	}
	l2, _, err := c.Attach(ctx, client.AttachRequest{Volume: "swap0", Holder: "a"})
	if err != nil || l2.Epoch <= l1.Epoch || !l2.FirstEpoch { // none has said that it opened it
		t.Fatalf("the same holder again: %v, epochs %d %d, first %v", err, l1.Epoch, l2.Epoch, l2.FirstEpoch)
	}
	if _, err := c.Renew(ctx, l1.Volume, l1.Epoch, client.Report{State: client.StateHealthy}); !errors.Is(err, client.ErrFenced) {
		t.Errorf("renew of an older epoch: %v", err)
	}
	if _, err := c.Renew(ctx, l2.Volume, l2.Epoch, client.Report{State: client.StateDegraded, DegradedGroups: 1, RedundancyLeft: 1, MappedPages: 7}); err != nil {
		t.Fatal(err)
	}
	st, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.State() != client.StateDegraded || st.Volumes[0].RedundancyLeft != 1 || st.Volumes[0].Report.MappedPages != 7 || len(st.Servers) != 6 || len(st.Meta) != 1 || !st.Meta[0].Leader {
		t.Errorf("status: %+v", st)
	}
	if l, _, err := c.Attach(ctx, client.AttachRequest{Volume: "swap0", Holder: "a"}); err != nil || l.FirstEpoch {
		t.Errorf("after a report: %v, first %v", err, l.FirstEpoch)
	}
	if _, _, err := c.Attach(ctx, client.AttachRequest{Volume: "none", Holder: "a"}); !errors.Is(err, client.ErrNoVolume) {
		t.Errorf("attach of no volume: %v", err)
	}

	// A second life of a server: its members are lost, its older life unknown.
	if err := c.Register(ctx, serverInfo(0, 2)); err != nil {
		t.Fatal(err)
	}
	hb := server.Heartbeat{ID: "s0", Incarnation: 100, MemoryTotal: gib}
	if r, err := c.Heartbeat(ctx, hb); err != nil || !r.Unknown {
		t.Errorf("heartbeat of an older life: %+v, %v", r, err)
	}
	if err := c.Register(ctx, serverInfo(0, 1)); !errors.Is(err, metaclient.ErrInvalid) {
		t.Errorf("older life registers: %v", err)
	}
	_, l3, err := c.Volume(ctx, "swap0")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range l3.Groups {
		for _, m := range g.Members {
			// Lost, or replaced already.
			if (m.Server == "s0") != (m.State == raid.MemberLost || m.State == raid.MemberRebuilding && m.Incarnation == 200) {
				t.Fatalf("member %+v", m)
			}
		}
	}

	// Deleted: the chunks that a server reports belong to nobody.
	chunk := l3.Groups[0].Members[0]
	if chunk.Server == "s0" {
		chunk = l3.Groups[0].Members[1]
	}
	hb = server.Heartbeat{ID: chunk.Server, Incarnation: chunk.Incarnation, MemoryTotal: gib, Chunks: []raid.ChunkID{chunk.Chunk, 1 << 40}}
	if r, err := c.Heartbeat(ctx, hb); err != nil || len(r.Drop) != 0 {
		t.Errorf("chunks in use: %+v, %v", r, err)
	}
	if err := c.DeleteVolume(ctx, "swap0", true); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Heartbeat(ctx, hb); err != nil || len(r.Drop) != 1 || r.Drop[0] != chunk.Chunk {
		t.Errorf("chunks of a deleted volume: %+v, %v", r, err)
	}
	servers, err := c.Servers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s.ID == chunk.Server && (s.MemoryReserved == 0 || s.Chunks != 0) {
			t.Errorf("memory that was not given back yet: %+v", s)
		}
	}
	hb.Chunks = nil
	if _, err := c.Heartbeat(ctx, hb); err != nil {
		t.Fatal(err)
	}
	servers, err = c.Servers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s.ID == chunk.Server && s.MemoryReserved != 0 {
			t.Errorf("memory that was given back: %+v", s)
		}
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 3)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 64 << 20, Redundancy: raid.Geometry{K: 1, M: 2}}); err != nil {
		t.Fatal(err)
	}
	before, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a"})
	if err != nil {
		t.Fatal(err)
	}
	cluster := n.identity().Cluster
	stop(t, n)

	n = start(t, cfg)
	waitReady(t, n)
	c = newClient(t, time.Minute, n)
	if n.identity().Cluster != cluster {
		t.Errorf("cluster %s became %s", cluster, n.identity().Cluster)
	}
	if _, err := c.Renew(t.Context(), before.Volume, before.Epoch, client.Report{State: client.StateHealthy}); err != nil {
		t.Errorf("renew after a restart: %v", err)
	}
	if _, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "b"}); !errors.Is(err, client.ErrInUse) {
		t.Errorf("a restart must not end leases: %v", err)
	}
	if err := c.Detach(t.Context(), before.Volume, before.Epoch); err != nil {
		t.Fatal(err)
	}
	if err := c.Detach(t.Context(), before.Volume, before.Epoch); err != nil {
		t.Errorf("detach again: %v", err)
	}
	after, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "b"})
	if err != nil || after.Epoch <= before.Epoch {
		t.Errorf("attach after detach: %v, epochs %d %d", err, before.Epoch, after.Epoch)
	}
}

func TestFoldersThatMustNotStart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	stop(t, start(t, cfg))
	other := cfg
	other.Name = "meta2"
	if _, err := Start(t.Context(), other); err == nil || !strings.Contains(err.Error(), "belongs to node meta1") {
		t.Errorf("another name: %v", err)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "does not name its cluster") {
		t.Errorf("without %s: %v", identityFile, err)
	}

	cfg = testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	stop(t, n)
	if err := os.Remove(filepath.Join(cfg.Dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	// The votes are gone and the state is not: this node must not come back.
	if n, err := Start(t.Context(), cfg); err == nil {
		stop(t, n)
		t.Error("a node without its log started")
	} else if !strings.Contains(err.Error(), "Raft log ends at 0") {
		t.Error(err)
	}
}

func TestOnlyLoopback(t *testing.T) {
	cfg := testConfig(t, "meta1")
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.org:0"} {
		cfg.APIListen = addr
		if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "insecure-network") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// What others would be told must lead here.
func TestNobodyIsToldOfAnyAddress(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"api":          func(c *Config) { c.APIListen = "0.0.0.0:0" },
		"raft":         func(c *Config) { c.RaftListen = ":0" },
		"raft, as set": func(c *Config) { c.RaftAdvertise = "[::]:7201" },
	} {
		cfg := testConfig(t, "meta1")
		cfg.InsecureNetwork = true
		change(&cfg)
		if n, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "-advertise") {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				stop(t, n)
			}
		}
	}
}

// Nor does a server become one that clients would seek on their own hosts.
func TestServerThatNobodyCanDialIsRefused(t *testing.T) {
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Second, n)
	i := serverInfo(0, 1)
	i.Addr = "tcp://10.0.0.1:7301,fabric+tcp://[::]:7301"
	if err := c.Register(t.Context(), i); !errors.Is(err, metaclient.ErrInvalid) || !strings.Contains(err.Error(), "--advertise") {
		t.Error(err)
	}
}

// TestCurl makes the calls of docs/meta.md as curl makes them.
func TestCurl(t *testing.T) {
	t.Parallel()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	registerServers(t, newClient(t, time.Second, n), 3)
	post := func(path, body string, header ...string) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.APIURL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var m map[string]any
		if err := json.NewDecoder(res.Body).Decode(&m); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, m
	}
	code, m := post("/dmps.meta.v1.VolumeService/CreateVolume", `{"name":"v","sizeBytes":"67108864","redundancy":"mirror:3"}`)
	if v, _ := m["volume"].(map[string]any); code != 200 || v["state"] != "VOLUME_STATE_HEALTHY" {
		t.Errorf("create: %d %v", code, m)
	}
	if code, m := post("/dmps.meta.v1.VolumeService/CreateVolume", `{"name":"w","sizeBytes":"4096"}`); code != 400 || !strings.Contains(fmt.Sprint(m["message"]), "none") {
		t.Errorf("a volume whose redundancy nobody chose: %d, %v", code, m)
	}
	if code, m := post("/dmps.meta.v1.VolumeService/CreateVolume", `{"name":"v","sizeBytes":"4096","redundancy":"none"}`); code != 409 || m["code"] != "already_exists" {
		t.Errorf("create again: %d %v", code, m)
	}
	code, m = post("/dmps.meta.v1.StatusService/GetStatus", `{}`)
	if code != 200 || len(m["servers"].([]any)) != 3 || len(m["volumes"].([]any)) != 1 || len(m["members"].([]any)) != 1 {
		t.Errorf("status: %d %v", code, m)
	}
	if code, m := post("/dmps.meta.v1.StatusService/GetStatus", `{}`, authHeader, "secret"); code != 400 {
		t.Errorf("authentication that nobody checks: %d %v", code, m)
	}
	if code, m := post("/dmps.meta.v1.VolumeService/GetVolume", `{"name":`); code != 400 {
		t.Errorf("broken JSON: %d %v", code, m)
	}
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": `dmps_meta_volumes{state="healthy"} 1`, "/metrics?": "dmps_meta_servers_short 0",
	} {
		res, err := http.Get(n.APIURL() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %s %v", path, res.StatusCode, b, err)
		}
	}
	// Somebody who speaks something else to either port harms nobody.
	for _, addr := range []string{n.apiAddr, n.raftAddr} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("\x00\xff\xff\xffGET / nonsense")); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if code, _ := post("/dmps.meta.v1.StatusService/GetStatus", `{}`); code != 200 {
		t.Errorf("status after nonsense: %d", code)
	}
}
