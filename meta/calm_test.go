package meta

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

// TestCalmBeats: a heartbeat that says nothing new is heard while a command holds the state,
// and one that says something, or whose server's record changed, is compared with the state.
func TestCalmBeats(t *testing.T) {
	n := start(t, testConfig(t, "m"))
	waitReady(t, n)
	registerServers(t, newClient(t, time.Minute, n), 2)
	r, _, err := n.leading(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	looked := func(at time.Time) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.care.looked = at
	}
	inc := uint64(serverInfo(0, 1).Incarnation)
	said := func(change func(*metapb.HeartbeatRequest)) *metapb.HeartbeatRequest {
		q := &metapb.HeartbeatRequest{Id: "s0", Incarnation: inc, MemoryTotal: gib, ChunksHash: 7, ChunksUnchanged: true}
		change(q)
		return q
	}
	send := func(q *metapb.HeartbeatRequest) *metapb.HeartbeatResponse {
		t.Helper()
		res, err := serverAPI{n}.Heartbeat(t.Context(), connect.NewRequest(q))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg
	}
	calm := func(q *metapb.HeartbeatRequest) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.calmLocked(q, time.Now()) != nil
	}
	again := func(*metapb.HeartbeatRequest) {}
	looked(time.Now().Add(time.Hour))
	if calm(said(again)) {
		t.Error("a server that has listed nothing says nothing new")
	}
	send(said(func(q *metapb.HeartbeatRequest) { q.ChunksUnchanged = false }))

	held, release := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() { done <- n.disks.state.Rewrite(func(*state.State) { close(held); <-release }) }()
	<-held
	if res := send(said(again)); res.Cluster != n.identity().Cluster || res.Unknown || res.ListChunks {
		t.Errorf("answer %v", res)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	for what, change := range map[string]func(*metapb.HeartbeatRequest){
		"another life":         func(q *metapb.HeartbeatRequest) { q.Incarnation++ },
		"another server":       func(q *metapb.HeartbeatRequest) { q.Id = "s1" },
		"a new list":           func(q *metapb.HeartbeatRequest) { q.ChunksUnchanged = false },
		"another hash":         func(q *metapb.HeartbeatRequest) { q.ChunksHash++ },
		"accepts nobody":       func(q *metapb.HeartbeatRequest) { q.NotAccepting = true },
		"more memory":          func(q *metapb.HeartbeatRequest) { q.MemoryTotal++ },
		"what a chunk is":      func(q *metapb.HeartbeatRequest) { q.About = []*metapb.ChunkAbout{{Chunk: 1}} },
		"short of memory":      func(q *metapb.HeartbeatRequest) { q.Short = true },
		"memory that it wants": func(q *metapb.HeartbeatRequest) { q.WantedFreeBytes++ },
	} {
		if calm(said(change)) {
			t.Errorf("%s is nothing new", what)
		}
	}
	looked(time.Time{})
	if calm(said(again)) {
		t.Error("nobody looks for volumes that need care")
	}
	looked(time.Now().Add(time.Hour))
	if !calm(said(func(q *metapb.HeartbeatRequest) { q.Owned = []uint64{9} })) {
		t.Error("the same is something new")
	}
	r.mu.Lock()
	_, owned := r.mu.care.owned[9]
	r.mu.Unlock()
	if !owned {
		t.Error("the sessions that a server names do not count, and another client may have the volume")
	}
	if _, err := n.propose(t.Context(), &state.Command{Drain: &state.Drain{ID: "s0"}}); err != nil {
		t.Fatal(err)
	}
	if calm(said(again)) {
		t.Error("a server that is drained says nothing new")
	}
	send(said(again))
	r.mu.Lock()
	r.mu.care.offers = []*metapb.CareOffer{{Volume: "v"}}
	same := r.calmLocked(said(again), time.Now())
	r.mu.Unlock()
	if same == nil {
		t.Error("a server that is drained says something new each time")
	} else if len(same.Care) > 0 {
		t.Error("a server that is drained is offered a volume to care for")
	}
	unhashed := said(func(q *metapb.HeartbeatRequest) { q.ChunksHash, q.ChunksUnchanged = 0, false })
	send(unhashed)
	if unhashed.ChunksUnchanged = true; calm(unhashed) {
		t.Error("a list without a hash is left out, and that is nothing new")
	}
	send(said(func(q *metapb.HeartbeatRequest) { q.ChunksUnchanged = false }))
	send(said(func(q *metapb.HeartbeatRequest) { q.NotAccepting = true }))
	if calm(said(again)) {
		t.Error("that it accepts again is nothing new")
	}
}
