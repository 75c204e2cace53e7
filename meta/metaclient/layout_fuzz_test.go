package metaclient

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"dmps/meta/metapb"
	"dmps/raid"
)

// FuzzLayout reads layouts as a metadata node sends them that lies: each is refused, or one
// that a client can use.
func FuzzLayout(f *testing.F) {
	member := func(server string, chunk uint64) *metapb.Member {
		return &metapb.Member{Server: server, Addr: "tcp://h:1", Incarnation: 1, Chunk: chunk, State: metapb.MemberState_MEMBER_STATE_IN_SYNC}
	}
	l := &metapb.Layout{
		Volume: 1, Name: "v", Layout: "log", Redundancy: "mirror:2", Pages: 100, ChunkSlots: 256, MinAck: 1, Epoch: 1,
		Groups: []*metapb.Group{{Members: []*metapb.Member{member("a", 1), member("b", 2)}}},
	}
	add := func(change func(*metapb.Layout)) {
		c := proto.CloneOf(l)
		change(c)
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint64(0))
		f.Add(b, uint64(1))
	}
	add(func(*metapb.Layout) {})
	add(func(l *metapb.Layout) { l.Epoch = 1 << 40 })
	add(func(l *metapb.Layout) { l.Pages, l.Layout, l.Redundancy = 1<<40, "striped", "none" })
	add(func(l *metapb.Layout) { l.Groups[0].Pending = []*metapb.Pending{{Col: 7, Member: member("c", 3)}} })
	add(func(l *metapb.Layout) {
		p := member("c", 3)
		p.State = metapb.MemberState_MEMBER_STATE_REBUILDING
		l.Groups[0].Pending = []*metapb.Pending{{Col: 1, Member: p}}
	})
	add(func(l *metapb.Layout) { l.Groups[0].Members[1].Chunk = 1 })
	f.Fuzz(func(t *testing.T, b []byte, since uint64) {
		var p metapb.Layout
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		l, err := layoutFrom(&p, since)
		if err != nil {
			return
		}
		if l.Epoch > raid.MaxEpoch || raid.FirstSeq(l.Epoch) < raid.FirstSeq(0) {
			t.Errorf("epoch %d is taken", l.Epoch)
		}
		if since == 0 && (l.DataSlots() < l.Pages || len(l.Groups) == 0) || l.Pages > raid.MaxPages || since > l.Version {
			t.Errorf("%d pages in %d slots", l.Pages, l.DataSlots())
		}
		for _, g := range l.Groups {
			if len(g.Members) != l.Geometry.Members() {
				t.Errorf("group %d has %d members", g.ID, len(g.Members))
			}
			for _, pd := range g.Pending {
				if int(pd.Col) >= len(g.Members) {
					t.Errorf("group %d: pending member %d", g.ID, pd.Col)
				}
			}
		}
	})
}
