package meta

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

// refuse renews the lease with a report that names members that were refused.
func (f *fleet) refuse(l *metapb.Layout, refused ...*metapb.RefusedMember) {
	f.v.t.Helper()
	_, err := volumeAPI{f.v.nodes[f.at]}.Renew(context.Background(), connect.NewRequest(&metapb.RenewRequest{
		Volume: l.Volume, Epoch: l.Epoch, Report: &metapb.Report{
			State: metapb.VolumeState_VOLUME_STATE_DEGRADED, RedundancyLeft: 1, Refused: refused,
		},
	}))
	if err != nil {
		f.v.t.Fatal(err)
	}
}

// A member that was refused for 30 s without a break is placed elsewhere, once; status says so before.
func TestRefusedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		f := newFleet(v, v.leader(0), 8)
		l := f.attach()
		m := l.Groups[0].Members[1]
		said := &metapb.RefusedMember{Group: 77, Col: 7, Server: "\x1b[2J", Chunk: m.Chunk}
		tell := func(seconds int) *metapb.Layout {
			t.Helper()
			for range seconds {
				f.refuse(l, said, said, &metapb.RefusedMember{Chunk: 1 << 40})
				f.run(1)
			}
			_, now := f.volume()
			return now
		}
		if now := tell(25); now.Version != l.Version {
			t.Fatal("placed elsewhere too soon")
		}
		vol, _ := f.volume()
		if r := vol.Report.Refused; len(r) != 1 || r[0].Group != 0 || r[0].Col != 1 || r[0].Server != m.Server || r[0].Chunk != m.Chunk {
			t.Errorf("status tells of %v", r)
		}
		f.refuse(l) // it has its memory, for a moment
		if now := tell(25); now.Version != l.Version {
			t.Fatal("placed elsewhere, and it was not refused without a break")
		}
		now := tell(8)
		pending := now.Groups[0].Pending
		if now.Version != l.Version+1 || len(pending) != 1 || pending[0].Member.Server == m.Server || now.Groups[0].Members[1].Chunk != m.Chunk {
			t.Fatalf("after 33 s: version %d, was %d: %v", now.Version, l.Version, now.Groups[0])
		}
		if again := tell(40); again.Version != now.Version {
			t.Error("placed elsewhere again")
		}
		f.open(now)
		f.renew(l, pending[0].Member.Chunk)
		f.run(2)
		vol, now = f.volume()
		if vol.State != metapb.VolumeState_VOLUME_STATE_HEALTHY || now.Groups[0].Members[1].Chunk != pending[0].Member.Chunk {
			t.Errorf("filled: %v, %v", vol.State, now.Groups[0])
		}
		v.stop(0)
	})
}

// What was refused counts only while its client is there, and a server that refused memory gets no
// new members for a while.
func TestRefusalsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, 1)
		f := newFleet(v, v.leader(0), 8)
		l := f.attach()
		m := l.Groups[0].Members[1]
		f.refuse(l, &metapb.RefusedMember{Chunk: m.Chunk})
		f.run(40) // the lease is over
		if _, now := f.volume(); now.Version != l.Version {
			t.Error("placed elsewhere, and its client is gone")
		}
		f.refuse(l)
		f.quiet[l.Groups[0].Members[0].Server] = true // others stand in for it
		f.run(35)
		_, now := f.volume()
		for _, g := range now.Groups {
			for c, is := range g.Members {
				if is.Server == m.Server && is.Chunk != l.Groups[g.Id].Members[c].Chunk {
					t.Errorf("group %d, member %d: a new one on %s", g.Id, c, is.Server)
				}
			}
		}
		if len(rebuilding(now)) == 0 {
			t.Error("the test needs members that are replaced")
		}
		time.Sleep(fullFor)
		if err := v.nodes[f.at].ask(context.Background(), func(r *reign, s *state.State) error {
			if full := r.fullLocked(s, time.Now()); len(full) != 0 {
				t.Errorf("no new members on %v after %v", full, fullFor)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		v.stop(0)
	})
}
