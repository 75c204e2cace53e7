package meta

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// Servers tell what they hold once, and again when it changes. What nobody needs any more is
// given back all the same, and a leader that is new asks for all lists.
func TestListsAreSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 3)
		defer func() {
			for i := range v.nodes {
				v.stop(i)
			}
		}()
		f := newFleet(v, v.leader(0, 1, 2), 8)
		l := f.attach()
		f.run(3)
		sent := f.lists
		f.run(60)
		if f.lists != sent {
			t.Errorf("%d lists were sent of what did not change", f.lists-sent)
		}
		if _, err := (volumeAPI{v.nodes[f.at]}).Detach(context.Background(), connect.NewRequest(&metapb.DetachRequest{Volume: l.Volume, Epoch: l.Epoch})); err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, chunks := range f.held {
			held += len(chunks)
		}
		if held == 0 {
			t.Fatal("nothing is held")
		}
		if _, err := (volumeAPI{v.nodes[f.at]}).DeleteVolume(context.Background(), connect.NewRequest(&metapb.DeleteVolumeRequest{Name: "v"})); err != nil {
			t.Fatal(err)
		}
		f.run(3)
		for id, chunks := range f.held {
			if len(chunks) > 0 {
				t.Errorf("%s still holds %d chunks of a volume that was deleted", id, len(chunks))
			}
			if n := f.server(id); n.MemoryReserved != 0 {
				t.Errorf("%s: %d bytes count as taken", id, n.MemoryReserved)
			}
		}
		// A made-up hash, and a leader that has heard nothing.
		f.told["s0"] = 0
		res, err := serverAPI{v.nodes[f.at]}.Heartbeat(context.Background(), connect.NewRequest(&metapb.HeartbeatRequest{
			Id: "s0", Incarnation: f.lives["s0"], MemoryTotal: gib, ChunksHash: 7, ChunksUnchanged: true,
		}))
		if err != nil || !res.Msg.ListChunks {
			t.Errorf("a list that nobody has: %v, %v", res, err)
		}
		v.cut(f.at)
		time.Sleep(20 * time.Second)
		f.at = v.leader((f.at+1)%3, (f.at+2)%3)
		sent = f.lists
		f.run(1)
		if f.lists-sent < 8 {
			t.Errorf("a new leader has %d lists of 8", f.lists-sent)
		}
	})
}

// After a restore what a server holds counts when it has said what that is, not when it is
// heard: it says first that its list is as it was, and nobody has that.
func TestUpWhenItHasListed(t *testing.T) {
	n := start(t, testConfig(t, "m"))
	waitReady(t, n)
	registerServers(t, newClient(t, time.Minute, n), 1)
	if err := n.disks.state.Rewrite(func(s *state.State) { s.Recover(1, "in a test") }); err != nil {
		t.Fatal(err)
	}
	for _, unchanged := range []bool{true, false} {
		q := &metapb.HeartbeatRequest{Id: "s0", Incarnation: uint64(serverInfo(0, 1).Incarnation), MemoryTotal: gib, ChunksHash: 7, ChunksUnchanged: unchanged}
		res, err := serverAPI{n}.Heartbeat(t.Context(), connect.NewRequest(q))
		if err != nil || res.Msg.ListChunks != unchanged {
			t.Fatal(res, err)
		}
		if err := n.disks.state.View(func(s *state.State) {
			if sv := s.Servers["s0"]; (sv.State == state.ServerUp) == unchanged || sv.Unverified != unchanged {
				t.Errorf("unchanged %v: %v, unverified %v", unchanged, sv.State, sv.Unverified)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// What a list says is said again, until it was carried out: an answer or a command may have
// been lost, and the next heartbeat says that nothing changed.
func TestListIsReadUntilItIsCarriedOut(t *testing.T) {
	n := start(t, testConfig(t, "m"))
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 1)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 1 << 20, Redundancy: raid.Geometry{K: 1}}); err != nil {
		t.Fatal(err)
	}
	id := raid.ServerID("s0")
	var mine uint64
	read := func(l *chunkList, used uint64) (drop []uint64, changes []state.Command) {
		if err := n.ask(t.Context(), func(r *reign, s *state.State) error {
			if mine == 0 {
				v, _ := s.VolumeByName("v")
				mine = uint64(v.Groups[0].Members[0].Chunk)
			}
			drop, changes = r.holdingsLocked(s, s.Servers[id], l, used)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return drop, changes
	}
	read(&chunkList{}, 0)
	strange := &chunkList{chunks: []uint64{mine, 1 << 30}}
	for range 2 {
		_, changes := read(strange, gib)
		if len(changes) != 1 || changes[0].Unknown == nil || changes[0].Unknown.Chunks != 1 || changes[0].Unknown.Bytes >= gib || changes[0].Unknown.Bytes < gib/2 {
			t.Errorf("a chunk that nobody gave out, and nobody noted: %+v", changes)
		}
	}
	if err := c.DeleteVolume(t.Context(), "v", false); err != nil {
		t.Fatal(err)
	}
	held := &chunkList{chunks: []uint64{mine}}
	if drop, changes := read(held, 0); len(drop) != 1 || len(changes) > 1 || len(changes) == 1 && slices.Contains(changes[0].Freed.Chunks, raid.ChunkID(mine)) {
		t.Errorf("held: to drop %v, %+v", drop, changes)
	}
	_, changes := read(&chunkList{}, 0) // before the server opened it
	if len(changes) != 1 || changes[0].Freed == nil {
		t.Fatalf("not held: %+v", changes)
	}
	if _, err := n.propose(t.Context(), &changes[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if drop, _ := read(held, 0); !slices.Equal(drop, []uint64{mine}) {
			t.Errorf("opened late: to drop %v", drop)
		}
	}
}

// The list of a former life is not that of the present one, whatever its hash.
func TestListOfAFormerLife(t *testing.T) {
	n := start(t, testConfig(t, "m"))
	waitReady(t, n)
	beat := func(inc uint64, unchanged bool) *metapb.HeartbeatResponse {
		res, err := serverAPI{n}.Heartbeat(t.Context(), connect.NewRequest(&metapb.HeartbeatRequest{
			Id: "s0", Incarnation: inc, MemoryTotal: gib, ChunksHash: 7, ChunksUnchanged: unchanged,
		}))
		if err != nil || res.Msg.Unknown {
			t.Fatal(res, err)
		}
		return res.Msg
	}
	registerServers(t, newClient(t, 30*time.Second, n), 1)
	beat(100, false)
	if beat(100, true).ListChunks {
		t.Error("its list is asked for again")
	}
	// The call that registers the next life does not come to note it.
	if _, err := n.propose(t.Context(), &state.Command{Register: &state.Register{ID: "s0", Incarnation: 200, Addr: serverInfo(0, 1).Addr, MemoryTotal: gib}}); err != nil {
		t.Fatal(err)
	}
	if !beat(200, true).ListChunks {
		t.Error("what its former life held counts as held")
	}
}

// BenchmarkHeartbeat is of a server with 3,000 chunks: with their list, and without.
func BenchmarkHeartbeat(b *testing.B) {
	n, err := Start(b.Context(), Config{Dir: b.TempDir(), Name: "m", APIListen: "127.0.0.1:0", RaftListen: "127.0.0.1:0", Logger: quiet(), SuspectAfter: time.Hour, Grace: time.Hour, dialBack: booksOnly})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	if err := n.WaitReady(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, c := range []*state.Command{
		{Register: &state.Register{ID: "s", Incarnation: 1, Addr: "tcp://h:1", MemoryTotal: 64 * gib}},
		{CreateVolume: &state.CreateVolume{Name: "v", Pages: 3000 * 256, Geometry: raid.Geometry{K: 1}, Kind: raid.LayoutLinear, ChunkSlots: 256}},
	} {
		if _, err := n.propose(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
	q := &metapb.HeartbeatRequest{Id: "s", Incarnation: 1, MemoryTotal: 64 * gib, ChunksHash: 7}
	if err := n.disks.state.View(func(s *state.State) {
		v, _ := s.VolumeByName("v")
		for _, g := range v.Groups {
			q.Chunks = append(q.Chunks, uint64(g.Members[0].Chunk))
		}
	}); err != nil {
		b.Fatal(err)
	}
	beat := func(b *testing.B, q *metapb.HeartbeatRequest) {
		b.ReportAllocs()
		for b.Loop() {
			if res, err := (serverAPI{n}).Heartbeat(b.Context(), connect.NewRequest(q)); err != nil || res.Msg.ListChunks || res.Msg.Unknown {
				b.Fatal(res, err)
			}
		}
		b.ReportMetric(float64(proto.Size(q)), "bytes/beat")
	}
	b.Run("list", func(b *testing.B) { beat(b, q) })
	b.Run("unchanged", func(b *testing.B) {
		beat(b, &metapb.HeartbeatRequest{Id: "s", Incarnation: 1, MemoryTotal: 64 * gib, ChunksHash: 7, ChunksUnchanged: true})
	})
}
