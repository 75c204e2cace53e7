package meta

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/raid"
	"dmps/server"
)

// besides is a cluster, and another one that was restored from its backup while it
// lives, after which it decided something.
type besides struct {
	old, restored *Node
	later         *raid.Layout // attached at the old one after the backup
}

func beside(t *testing.T) besides {
	t.Helper()
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 6)
	var backup bytes.Buffer
	if _, err := c.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "later", Size: 16 << 20, Redundancy: raid.Geometry{K: 2, M: 2}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := c.Attach(t.Context(), client.AttachRequest{Volume: "later", Holder: "a"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, "meta9")
	cfg.RaftListen = heldAddr(t)
	restore := RestoreConfig{Dir: cfg.Dir, Name: "meta9", RaftAdvertise: cfg.RaftListen}
	if err := Restore(t.Context(), bytes.NewReader(backup.Bytes()), restore); !errors.Is(err, ErrLives) || !strings.Contains(err.Error(), n.APIURL()) {
		t.Fatalf("restored beside a node that lives: %v", err)
	}
	restore.beside = true // as if it could not be reached
	if err := Restore(t.Context(), bytes.NewReader(backup.Bytes()), restore); err != nil {
		t.Fatal(err)
	}
	twin := start(t, cfg)
	waitReady(t, twin)
	if was, is := n.identity().generation(), twin.identity().generation(); is <= was {
		t.Fatalf("generation %d became %d", was, is)
	}
	return besides{n, twin, l}
}

// holds is what server i says of itself, with its members of a layout.
func holds(i int, l *raid.Layout) server.Heartbeat {
	info := serverInfo(i, 1)
	hb := server.Heartbeat{ID: info.ID, Incarnation: info.Incarnation, MemoryTotal: info.MemoryTotal}
	for _, g := range l.Groups {
		for _, m := range g.Members {
			if m.Server == info.ID {
				hb.Chunks = append(hb.Chunks, m.Chunk)
				hb.MemoryUsed += 1 << 20
			}
		}
	}
	return hb
}

// A cluster that was restored from a backup knows nothing of what was decided after
// it, and has nothing of that given back. What it freed itself it has.
func TestRestoredClusterDropsNothingUnknown(t *testing.T) {
	t.Parallel()
	b := beside(t)
	c := newClient(t, time.Minute, b.restored)
	total := uint64(0)
	for i := range 6 {
		hb := holds(i, b.later)
		total += uint64(len(hb.Chunks))
		for range 2 {
			if r, err := c.Heartbeat(t.Context(), hb); err != nil || len(r.Drop) > 0 || r.Unknown {
				t.Fatalf("heartbeat of %s: %+v, %v", hb.ID, r, err)
			}
		}
	}
	servers, err := c.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shown := uint64(0)
	for _, s := range servers {
		shown += s.UnknownChunks
		if (s.UnknownChunks > 0) != (s.UnknownBytes > 0) {
			t.Errorf("%d unknown chunks of %d bytes", s.UnknownChunks, s.UnknownBytes)
		}
	}
	if shown != total || total == 0 {
		t.Errorf("%d of %d unknown chunks are shown", shown, total)
	}

	// The server is asked what they are, and asked once.
	hb := holds(0, b.later)
	r, err := c.Heartbeat(t.Context(), hb)
	if err != nil || len(r.Describe) != len(hb.Chunks) {
		t.Fatalf("it is asked about %d of %d chunks, %v", len(r.Describe), len(hb.Chunks), err)
	}
	if list, err := c.UnknownChunks(t.Context(), hb.ID); err != nil || len(list) != len(hb.Chunks) || list[0].Volume != 0 {
		t.Errorf("before it said so: %+v, %v", list, err)
	}
	said := hb
	for _, id := range r.Describe {
		said.About = append(said.About, server.ChunkAbout{Chunk: id, Volume: b.later.Volume, Group: 3, Bytes: 1 << 20, Made: time.UnixMilli(5)})
	}
	said.About = append(said.About, server.ChunkAbout{Chunk: 1 << 40, Volume: 9}) // of one that it does not hold
	for _, beat := range []server.Heartbeat{said, hb} {
		if r, err := c.Heartbeat(t.Context(), beat); err != nil || len(r.Describe) != 0 {
			t.Errorf("it is asked again: %+v, %v", r, err)
		}
	}
	list, err := c.UnknownChunks(t.Context(), hb.ID)
	if err != nil || len(list) != len(hb.Chunks) {
		t.Fatalf("%d chunks are listed, %v", len(list), err)
	}
	for _, u := range list {
		if u.Volume != b.later.Volume || u.Name != "" || u.Group != 3 || u.Bytes != 1<<20 || u.Made.UnixMilli() != 5 {
			t.Errorf("%+v", u)
		}
	}
	if _, err := c.UnknownChunks(t.Context(), "s99"); !errors.Is(err, metaclient.ErrNotFound) {
		t.Error(err)
	}

	// Somebody says that they are not needed.
	if n, err := c.PurgeUnknown(t.Context(), hb.ID); err != nil || n != uint64(len(hb.Chunks)) {
		t.Fatalf("%d chunks purged, %v", n, err)
	}
	if r, err := c.Heartbeat(t.Context(), hb); err != nil || len(r.Drop) != len(hb.Chunks) {
		t.Errorf("after the purge: %+v, %v", r, err)
	}
	hb.Chunks, hb.MemoryUsed = nil, 0
	if _, err := c.Heartbeat(t.Context(), hb); err != nil {
		t.Fatal(err)
	}
	if servers, err := c.Servers(t.Context()); err != nil || servers[0].UnknownChunks > 0 || servers[0].MemoryReserved > 0 {
		t.Errorf("%+v, %v", servers[0], err)
	}
	// What this state itself gave out and took back is dropped as ever.
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "w", Size: 16 << 20, Redundancy: raid.Geometry{K: 2, M: 2}}); err != nil {
		t.Fatal(err)
	}
	_, w, err := c.Volume(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	hb = holds(0, w)
	if err := c.DeleteVolume(t.Context(), "w", false); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Heartbeat(t.Context(), hb); err != nil || len(r.Drop) != len(hb.Chunks) || len(hb.Chunks) == 0 {
		t.Errorf("of a deleted volume: %+v, %v", r, err)
	}
}

// Who heard of the restored cluster does not listen to the old one, whose node ends,
// and does not start again.
func TestOlderGenerationEnds(t *testing.T) {
	t.Parallel()
	b := beside(t)
	c := newClient(t, time.Minute, b.restored, b.old)
	hb := holds(0, b.later)
	if _, err := c.Heartbeat(t.Context(), hb); err != nil {
		t.Fatal(err)
	}
	old := newClient(t, time.Minute, b.old)
	if _, err := old.Status(t.Context()); err != nil {
		t.Fatalf("the old one, before it heard: %v", err)
	}
	stop(t, b.restored)
	patient := metaclient.WithPatience(200 * time.Millisecond)
	patient(c)
	if r, err := c.Heartbeat(t.Context(), hb); err == nil {
		t.Errorf("the older cluster is listened to: %+v", r)
	}
	<-b.old.Done()
	if err := b.old.Err(); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the old node ended: %v", err)
	}
	cfg := b.old.cfg
	stop(t, b.old)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the old node starts again: %v", err)
	}
	// Its folder is what can be gone on with, as anybody's: above all that was.
	if err := RecoverSurvivor(t.Context(), RestoreConfig{Dir: cfg.Dir, RaftAdvertise: heldAddr(t)}); err != nil {
		t.Fatal(err)
	}
	now, err := Examine(cfg.Dir)
	if err != nil || now.Generation <= b.restored.identity().generation() {
		t.Errorf("%+v after generation %d, %v", now, b.restored.identity().generation(), err)
	}
}

// A client that only heard of the lower generation is listened to, and learns; what
// cannot be a generation ends nobody.
func TestGenerationsAreLearned(t *testing.T) {
	t.Parallel()
	b := beside(t)
	c := newClient(t, time.Minute, b.old, b.restored)
	hb := holds(0, b.later)
	if _, err := c.Heartbeat(t.Context(), hb); err != nil {
		t.Fatal(err)
	}
	// Any node is told by a peer too, on Raft's port.
	layer := &streamLayer{cluster: b.old.identity().Cluster, gen: b.old.identity().generation(), done: make(chan struct{})}
	heard := uint64(0)
	layer.newer = func(g uint64) { heard = g }
	if _, err := layer.ask(peerAddress(b.restored.raftAddr, b.restored.ID()), time.Minute); err == nil || heard != b.restored.identity().generation() {
		t.Errorf("heard of generation %d, %v", heard, err)
	}
	absurd := connect.NewRequest(&metapb.GetNodeRequest{})
	absurd.Header().Set(metaclient.GenerationHeader, metaclient.FormatGeneration(b.old.identity().Cluster, 1<<63))
	if _, err := b.old.clusterAt(b.old.APIURL()).GetNode(t.Context(), absurd); reasonCode(err) != metapb.Reason_CODE_FOREIGN_CLUSTER {
		t.Errorf("an absurd generation: %v", err)
	}
	if b.old.Err() != nil {
		t.Fatalf("an absurd generation ends a node: %v", b.old.Err())
	}
	stop(t, b.old)
	if _, err := c.Heartbeat(t.Context(), hb); err != nil {
		t.Errorf("of a server that heard of a lower one: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	// A node of before that comes up later is told by the first that it asks.
	cfg := b.old.cfg
	cfg.Join = []string{b.restored.APIURL()}
	again := start(t, cfg)
	<-again.Done()
	if !strings.Contains(again.Err().Error(), "generation") {
		t.Errorf("it ended: %v", again.Err())
	}
}
