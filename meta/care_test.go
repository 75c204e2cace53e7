package meta

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
)

// offered is what a heartbeat of a server is answered with.
func (f *fleet) offered(id string, owned ...uint64) []*metapb.CareOffer {
	f.v.t.Helper()
	res, err := serverAPI{f.v.nodes[f.at]}.Heartbeat(context.Background(), connect.NewRequest(&metapb.HeartbeatRequest{
		Id: id, Incarnation: f.lives[id], MemoryTotal: gib, Chunks: f.held[id], Owned: owned,
	}))
	if err != nil {
		f.v.t.Fatal(err)
	}
	return res.Msg.Care
}

func (f *fleet) take(holder string, care bool) (*metapb.Layout, error) {
	res, err := volumeAPI{f.v.nodes[f.at]}.Attach(context.Background(), connect.NewRequest(&metapb.AttachRequest{Volume: "v", Holder: holder, Care: care}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Layout, nil
}

// A detached volume that lost a server is offered to the others; a client that
// crashed may come back first, and one that merely does not reach the metadata
// service keeps its volume for as long as servers have sessions with it.
func TestCareIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		defer v.stop(0)
		f := newFleet(v, v.leader(0), 8)
		f.attach()
		f.quiet["s0"] = true
		f.run(20)
		// Its client crashed; the lease ran out 10 s ago, but sessions are there.
		if o := f.offered("s1", 1); len(o) != 0 {
			t.Fatalf("offered although its client pages: %v", o)
		}
		for range 20 {
			f.run(1)
			if o := f.offered("s1", 1); len(o) != 0 {
				t.Fatalf("offered although its client pages: %v", o)
			}
		}
		// s0 is down by now, its members are replaced. The sessions end.
		f.run(6)
		o := f.offered("s1")
		if len(o) != 1 || o[0].Volume != "v" || o[0].Pages == 0 {
			t.Fatalf("not offered: %v", o)
		}
		l, err := f.take("caretaker@s1", true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.take("caretaker@s2", true); err == nil {
			t.Fatal("two caretakers")
		}
		if vol, _ := f.volume(); !vol.Lease.GetCare() || vol.Lease.Holder != "caretaker@s1" {
			t.Fatalf("the lease is %+v", vol.Lease)
		}
		// It dies. Its lease runs out, another one takes over.
		f.run(5)
		if o := f.offered("s2"); len(o) != 0 {
			t.Fatalf("offered while somebody cares: %v", o)
		}
		f.run(7)
		if o := f.offered("s2"); len(o) != 1 {
			t.Fatal("not offered after the caretaker died")
		}
		l2, err := f.take("caretaker@s2", true)
		if err != nil || l2.Epoch <= l.Epoch {
			t.Fatalf("%v, epoch %d after %d", err, l2.GetEpoch(), l.Epoch)
		}
		// A user does not wait.
		if _, err := f.take("user", false); err != nil {
			t.Fatal(err)
		}
		if _, err := f.take("caretaker@s2", true); err == nil {
			t.Fatal("a caretaker got an attached volume")
		}
	})
}

// Who fails to care for a volume does not try again at once, but does when the
// volume changes.
func TestCareInVainRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		defer v.stop(0)
		at := v.leader(0)
		f := newFleet(v, at, 8)
		u := f.attach()
		detach := func(l *metapb.Layout) {
			t.Helper()
			if _, err := (volumeAPI{v.nodes[at]}).Detach(context.Background(), connect.NewRequest(&metapb.DetachRequest{Volume: l.Volume, Epoch: l.Epoch})); err != nil {
				t.Fatal(err)
			}
		}
		detach(u)
		f.quiet["s0"] = true
		f.run(35)
		var waits []time.Duration
		for range 4 {
			begin := time.Now()
			for len(f.offered("s1")) == 0 {
				if time.Since(begin) > time.Minute {
					t.Fatalf("not offered again, after waits of %v", waits)
				}
				f.run(1)
			}
			waits = append(waits, time.Since(begin))
			l, err := f.take("caretaker@s1", true)
			if err != nil {
				t.Fatal(err)
			}
			detach(l)
		}
		if waits[3] < 12*time.Second || waits[3] < 2*waits[1] {
			t.Errorf("waited for %v: it does not rest longer each time", waits)
		}
		f.start("s1") // empty: members are lost, and replaced
		f.run(3)
		if len(f.offered("s2")) == 0 {
			t.Error("the volume has changed, and is not offered")
		}
	})
}
