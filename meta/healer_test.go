package meta

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
)

// fleet is memory servers that live in virtual time.
type fleet struct {
	v     *virtual
	at    int // the leader
	lives map[string]uint64
	quiet map[string]bool
	held  map[string][]uint64 // chunks
	told  map[string]uint64   // hash of the list that was sent last
	lists int                 // that were sent
}

func newFleet(v *virtual, at, n int) *fleet {
	f := &fleet{v: v, at: at, lives: map[string]uint64{}, quiet: map[string]bool{}, held: map[string][]uint64{}, told: map[string]uint64{}}
	for i := range n {
		f.start(fmt.Sprintf("s%d", i))
	}
	return f
}

// start begins a new and empty life of a server.
func (f *fleet) start(id string) {
	f.v.t.Helper()
	f.lives[id]++
	f.held[id], f.quiet[id] = nil, false
	if err := f.v.register(f.at, id, f.lives[id]); err != nil {
		f.v.t.Fatal(err)
	}
}

// run lets time pass, with a heartbeat a second of every server that is not
// quiet. They give back what they are told to.
func (f *fleet) run(seconds int) {
	f.v.t.Helper()
	for range seconds {
		time.Sleep(time.Second)
		for id, life := range f.lives {
			if f.quiet[id] {
				continue
			}
			res := f.beat(id, life)
			if res.ListChunks {
				f.told[id] = 0
				res = f.beat(id, life)
			}
			if res.Unknown || res.ListChunks {
				f.v.t.Fatalf("server %s: %v", id, res)
			}
			f.held[id] = slices.DeleteFunc(f.held[id], func(c uint64) bool { return slices.Contains(res.Drop, c) })
		}
	}
}

// beat sends one, with the list of chunks when that has changed, as a server does.
func (f *fleet) beat(id string, life uint64) *metapb.HeartbeatResponse {
	f.v.t.Helper()
	hash := life
	for _, c := range f.held[id] {
		hash = hash*1099511628211 ^ c
	}
	q := &metapb.HeartbeatRequest{Id: id, Incarnation: life, MemoryTotal: gib, ChunksHash: hash, ChunksUnchanged: f.told[id] == hash}
	if !q.ChunksUnchanged {
		q.Chunks = slices.Clone(f.held[id])
		f.lists++
	}
	res, err := serverAPI{f.v.nodes[f.at]}.Heartbeat(context.Background(), connect.NewRequest(q))
	if err != nil {
		f.v.t.Fatal(err)
	}
	f.told[id] = hash
	return res.Msg
}

// volume gives a volume and its layout, and has the servers hold its chunks.
func (f *fleet) volume() (*metapb.Volume, *metapb.Layout) {
	f.v.t.Helper()
	res, err := volumeAPI{f.v.nodes[f.at]}.GetVolume(context.Background(), connect.NewRequest(&metapb.GetVolumeRequest{Name: "v"}))
	if err != nil {
		f.v.t.Fatal(err)
	}
	return res.Msg.Volume, res.Msg.Layout
}

func (f *fleet) open(l *metapb.Layout) {
	take := func(m *metapb.Member) {
		if m.Incarnation == f.lives[m.Server] && !slices.Contains(f.held[m.Server], m.Chunk) {
			f.held[m.Server] = append(f.held[m.Server], m.Chunk)
		}
	}
	for _, g := range l.Groups {
		for _, m := range g.Members {
			take(m)
		}
		for _, p := range g.Pending {
			take(p.Member)
		}
	}
}

// renew is what a client does that has filled all that it was given.
func (f *fleet) renew(l *metapb.Layout, rebuilt ...uint64) (version uint64) {
	f.v.t.Helper()
	res, err := volumeAPI{f.v.nodes[f.at]}.Renew(context.Background(), connect.NewRequest(&metapb.RenewRequest{
		Volume: l.Volume, Epoch: l.Epoch, Report: &metapb.Report{
			State: metapb.VolumeState_VOLUME_STATE_HEALTHY, RedundancyLeft: 2, Rebuilt: rebuilt,
		},
	}))
	if err != nil {
		f.v.t.Fatal(err)
	}
	return res.Msg.Version
}

// chunksOf lists a server's members: those in state, and the pending ones.
func chunksOf(l *metapb.Layout, id string, state metapb.MemberState) (members, pending []uint64) {
	for _, g := range l.Groups {
		for _, m := range g.Members {
			if m.Server == id && m.State == state {
				members = append(members, m.Chunk)
			}
		}
		for _, p := range g.Pending {
			if g.Members[p.Col].Server == id {
				pending = append(pending, p.Member.Chunk)
			}
		}
	}
	return members, pending
}

func rebuilding(l *metapb.Layout) (out []uint64) {
	for _, g := range l.Groups {
		for _, m := range g.Members {
			if m.State == metapb.MemberState_MEMBER_STATE_REBUILDING {
				out = append(out, m.Chunk)
			}
		}
		for _, p := range g.Pending {
			out = append(out, p.Member.Chunk)
		}
	}
	return out
}

func (f *fleet) server(id string) *metapb.Server {
	f.v.t.Helper()
	res, err := serverAPI{f.v.nodes[f.at]}.ListServers(context.Background(), connect.NewRequest(&metapb.ListServersRequest{}))
	if err != nil {
		f.v.t.Fatal(err)
	}
	for _, s := range res.Msg.Servers {
		if s.Id == id {
			return s
		}
	}
	f.v.t.Fatalf("no server %s", id)
	return nil
}

func (f *fleet) attach() *metapb.Layout {
	f.v.t.Helper()
	_, err := volumeAPI{f.v.nodes[f.at]}.CreateVolume(context.Background(), connect.NewRequest(&metapb.CreateVolumeRequest{
		Name: "v", SizeBytes: 64 << 20, Redundancy: "rs:4+2",
	}))
	if err != nil {
		f.v.t.Fatal(err)
	}
	res, err := f.v.attach(f.at, "a", false)
	if err != nil {
		f.v.t.Fatal(err)
	}
	f.open(res.Layout)
	_, err = volumeAPI{f.v.nodes[f.at]}.Renew(context.Background(), connect.NewRequest(&metapb.RenewRequest{
		Volume: res.Layout.Volume, Epoch: res.Layout.Epoch,
		Report: &metapb.Report{State: metapb.VolumeState_VOLUME_STATE_HEALTHY, RedundancyLeft: 2},
	}))
	if err != nil {
		f.v.t.Fatal(err)
	}
	return res.Layout
}

func inSync(l *metapb.Layout, id string) []uint64 {
	members, _ := chunksOf(l, id, metapb.MemberState_MEMBER_STATE_IN_SYNC)
	return members
}

// A server that comes back within the grace is left alone; one that does not
// is replaced, the client hears of it, and what it says is rebuilt counts. When
// the server comes back after all, it gives its chunks back.
func TestLostMembersAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		f := newFleet(v, v.leader(0), 8)
		l := f.attach()
		const gone = "s3"
		had := inSync(l, gone)
		if len(had) == 0 {
			t.Fatal("the test needs a server with members")
		}
		f.quiet[gone] = true
		f.run(25)
		if _, now := f.volume(); now.Version != l.Version || f.renew(l) != l.Version {
			t.Fatal("a server that is only suspect was replaced")
		}
		if st := f.server(gone).State; st != metapb.ServerState_SERVER_STATE_SUSPECT {
			t.Fatalf("after 25 s: %v", st)
		}
		f.quiet[gone] = false
		f.run(5)
		if vol, now := f.volume(); now.Version != l.Version || vol.State != metapb.VolumeState_VOLUME_STATE_HEALTHY || vol.AtRiskSinceUnixMs != 0 {
			t.Fatalf("back within the grace: %v", vol)
		}

		f.quiet[gone] = true
		since := time.Now()
		f.run(35)
		vol, now := f.volume()
		news := rebuilding(now)
		if now.Version <= l.Version || len(news) != len(had) || len(inSync(now, gone)) != 0 || vol.RebuildingMembers != uint64(len(had)) {
			t.Fatalf("after the grace: version %d, %d members of %d replaced: %v", now.Version, len(news), len(had), vol)
		}
		if at := time.UnixMilli(vol.AtRiskSinceUnixMs).Sub(since); at < 0 || at > 4*time.Second {
			t.Errorf("at risk %v after the server went", at)
		}
		if got := f.renew(l); got != now.Version {
			t.Errorf("the client hears of version %d, not %d", got, now.Version)
		}
		f.open(now)
		half := len(news) / 2
		if got := f.renew(l, news[:half]...); got <= now.Version {
			t.Errorf("version %d after %d members were rebuilt", got, half)
		}
		f.renew(l, append(news, 1<<40)...)
		f.renew(l, news...) // said again
		f.run(2)
		vol, now = f.volume()
		if vol.State != metapb.VolumeState_VOLUME_STATE_HEALTHY || len(rebuilding(now)) != 0 || vol.AtRiskSinceUnixMs != 0 {
			t.Errorf("rebuilt: %v", vol)
		}

		if s := f.server(gone); s.Chunks != 0 || s.MemoryReserved == 0 {
			t.Errorf("a server that may come back with what it holds: %v", s)
		}
		f.quiet[gone] = false
		f.run(3)
		if s := f.server(gone); s.MemoryReserved != 0 || len(f.held[gone]) != 0 || s.State != metapb.ServerState_SERVER_STATE_UP {
			t.Errorf("came back late: %v, holds %v", s, f.held[gone])
		}

		// An empty server is replaced at once, by itself if need be.
		f.start("s4")
		f.run(5) // a server that came back late lets others follow for 4 s
		_, now = f.volume()
		lost, _ := chunksOf(now, "s4", metapb.MemberState_MEMBER_STATE_LOST)
		if len(lost) != 0 || len(rebuilding(now)) == 0 {
			t.Errorf("restarted empty: %d members lost, %d replaced", len(lost), len(rebuilding(now)))
		}
		v.stop(0)
	})
}

func (f *fleet) rebuild(name string) (*metapb.RebuildResponse, error) {
	res, err := volumeAPI{f.v.nodes[f.at]}.Rebuild(context.Background(), connect.NewRequest(&metapb.RebuildRequest{Volume: name}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// Asked for, members on suspect servers are replaced without the grace, in that
// volume only, as long as others hold enough; what cannot be replaced is told.
func TestRebuildNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		f := newFleet(v, v.leader(0), 8)
		l := f.attach()
		if _, err := f.rebuild("other"); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("a volume that does not exist: %v", err)
		}
		if res, err := f.rebuild("v"); err != nil || res.Replaced+res.Waiting+res.Stuck != 0 {
			t.Errorf("nothing is missing: %v, %v", res, err)
		}
		gone := []string{"s2", "s3"}
		had := len(inSync(l, gone[0])) + len(inSync(l, gone[1]))
		for _, id := range gone {
			f.quiet[id] = true
		}
		f.run(4)
		res, err := f.rebuild("v")
		if err != nil || res.Replaced != uint64(had) || res.Stuck != 0 || !slices.Equal(res.Suspect, gone) {
			t.Fatalf("two suspect servers with %d members: %v, %v", had, res, err)
		}
		_, now := f.volume()
		if now.Version <= l.Version || len(rebuilding(now)) != had || res.Volume.RebuildingMembers != uint64(had) {
			t.Fatalf("version %d, %d of %d members replaced: %v", now.Version, len(rebuilding(now)), had, res)
		}
		if res, err := f.rebuild("v"); err != nil || res.Replaced != 0 {
			t.Errorf("asked again: %v, %v", res, err)
		}
		f.open(now)
		f.renew(l, rebuilding(now)...)
		// Six servers are left for groups of six: nobody takes another member.
		f.quiet["s4"] = true
		f.run(4)
		res, err = f.rebuild("v")
		if err != nil || res.Replaced != 0 || res.Stuck == 0 || res.StuckReason == "" || res.Volume.StuckMembers != 0 {
			t.Errorf("no server to spare: %v, %v", res, err)
		}
		// With fewer than K sources nothing is given up.
		f.quiet["s5"], f.quiet["s6"] = true, true
		f.run(4)
		res, err = f.rebuild("v")
		if err != nil || res.Replaced != 0 || res.Stuck == 0 {
			t.Errorf("too few sources: %v, %v", res, err)
		}
		v.stop(0)
	})
}

// When so many are away that nothing can be rebuilt, nobody is given up; when
// they come back one after another, the late ones are waited for.
func TestMassAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		f := newFleet(v, v.leader(0), 8)
		l := f.attach()
		for id := range f.lives {
			f.quiet[id] = true
		}
		f.run(60)
		vol, now := f.volume()
		if now.Version != l.Version || vol.State != metapb.VolumeState_VOLUME_STATE_FAILED || f.server("s1").State != metapb.ServerState_SERVER_STATE_SUSPECT {
			t.Fatalf("all away: version %d, %v", now.Version, vol)
		}
		f.run(600) // nor when nobody waits for them any more
		vol, now = f.volume()
		if now.Version != l.Version || vol.State != metapb.VolumeState_VOLUME_STATE_FAILED || vol.StuckMembers == 0 || vol.StuckReason == "" {
			t.Fatalf("all away: version %d, %v", now.Version, vol)
		}
		for i := range 8 {
			f.quiet[fmt.Sprintf("s%d", i)] = false
			if i%3 == 0 {
				f.run(1)
			}
		}
		f.run(10)
		vol, now = f.volume()
		if now.Version != l.Version || vol.State != metapb.VolumeState_VOLUME_STATE_HEALTHY || vol.StuckMembers != 0 {
			t.Errorf("all back: version %d, %v", now.Version, vol)
		}

		// This node did not run for a while: that is nobody else's fault.
		r, _, err := v.nodes[0].leading(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		for id, b := range r.mu.beats {
			b.at = b.at.Add(-time.Minute)
			r.mu.beats[id] = b
		}
		r.mu.Unlock()
		r.excuse(time.Minute)
		f.run(3)
		if _, now = f.volume(); now.Version != l.Version || f.server("s1").State != metapb.ServerState_SERVER_STATE_UP {
			t.Error("a stall of this node was blamed on the servers")
		}
		v.stop(0)
	})
}

// A drained server's members are moved while they count; it ends empty, and
// the volume never looks worse.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		f := newFleet(v, v.leader(0), 8)
		l := f.attach()
		const id = "s5"
		had := len(inSync(l, id))
		if _, err := (serverAPI{v.nodes[0]}).DrainServer(context.Background(), connect.NewRequest(&metapb.DrainServerRequest{Id: id})); err != nil {
			t.Fatal(err)
		}
		moves := 0
		for range 50 {
			f.run(1)
			vol, now := f.volume()
			if vol.State != metapb.VolumeState_VOLUME_STATE_HEALTHY || vol.RedundancyLeft != 2 {
				t.Fatalf("while draining: %v", vol)
			}
			_, pending := chunksOf(now, id, 0)
			if len(pending) > 16 || vol.PendingMembers != uint64(len(pending)) {
				t.Fatalf("%d moves at once, %v", len(pending), vol)
			}
			if len(pending) == 0 {
				break
			}
			f.open(now)
			moves += len(pending)
			f.renew(l, pending...)
		}
		f.run(2)
		s := f.server(id)
		if moves != had || s.Chunks != 0 || s.MemoryReserved != 0 || s.State != metapb.ServerState_SERVER_STATE_DRAINING || len(f.held[id]) != 0 {
			t.Errorf("%d of %d members moved: %v", moves, had, s)
		}
		if _, err := (serverAPI{v.nodes[0]}).UndrainServer(context.Background(), connect.NewRequest(&metapb.UndrainServerRequest{Id: id})); err != nil {
			t.Fatal(err)
		}
		if s := f.server(id); s.State != metapb.ServerState_SERVER_STATE_UP {
			t.Errorf("undrained: %v", s)
		}
		v.stop(0)
	})
}
