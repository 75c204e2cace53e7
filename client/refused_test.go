package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/raid"
)

// A server has no memory for one of the chunks that it is to hold. The others are used all
// the same, nothing is lost, and that member is filled when there is memory again: when
// the volume is opened first, and when it is opened by a client that should find it.
func TestRefusedChunkEndsNoSession(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 512, 4, 512)
	refused := uint64(l.Groups[0].Members[1].Chunk) // on s1
	refuse := func(chunk uint64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.servers["s1"].refuses = chunk
		delete(f.servers["s1"].chunks, chunk)
	}
	page := make([]byte, raid.PageSize)
	data := func(i int) []byte {
		for j := range page {
			page[j] = byte(i + j%7)
		}
		return page
	}
	check := func(v *Volume) {
		t.Helper()
		got := make([]byte, raid.PageSize)
		for i := range 64 {
			if _, err := v.ReadAt(got, int64(i)*raid.PageSize); err != nil || !slices.Equal(got, data(i)) {
				t.Fatalf("page %d: %v", i, err)
			}
		}
	}
	degraded := func(v *Volume) {
		t.Helper()
		r := v.Report()
		if r.State != StateDegraded || r.DegradedGroups != 1 || len(r.Suspect) != 0 {
			t.Errorf("%s, %d groups degraded, suspect %v", r.State, r.DegradedGroups, r.Suspect)
		}
		if want := (RefusedMember{Column: 1, Server: "s1", Chunk: raid.ChunkID(refused)}); len(r.Refused) != 1 || r.Refused[0] != want {
			t.Errorf("the report says that %+v were refused, not %+v", r.Refused, want)
		}
	}
	refuse(refused)
	v := openTest(t, f, l)
	degraded(v)
	for i := range 64 {
		if _, err := v.WriteAt(data(i), int64(i)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	check(v)
	degraded(v)
	refuse(0)
	wait(t, "filling the member", v, func() bool { return v.Report().State == StateHealthy })
	if r := v.Report().Refused; len(r) != 0 {
		t.Errorf("it is open, and the report says that %+v were refused", r)
	}
	closeTest(t, v)

	refuse(refused)
	next := *l
	next.Epoch, next.FirstEpoch = 2, false
	v = openTest(t, f, &next)
	degraded(v)
	check(v)
	refuse(0)
	wait(t, "filling the member again", v, func() bool { return v.Report().State == StateHealthy })
	check(v)
	closeTest(t, v)
}

// A member that was refused is out until meta gives it another server; that one is filled, with all
// that was written meanwhile, and the old one let go.
func TestRefusedMemberMoves(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}} { // of the first meta notes who is behind
		t.Run(g.String(), virtual(func(t *testing.T) { refusedMemberMoves(t, g) }))
	}
}

func refusedMemberMoves(t *testing.T, g raid.Geometry) {
	f := newSlowNet(g.Members() + 1)
	l := f.layout(raid.LayoutLog, g, 512, 4, 512)
	old := l.Groups[0].Members[1]
	f.servers["s1"].refuses = uint64(old.Chunk)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	page := make([]byte, raid.PageSize)
	for i := range 64 {
		page[0], page[1] = byte(i), 1
		if _, err := v.WriteAt(page, int64(i)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	r := v.Report()
	if len(r.Refused) != 1 || r.Refused[0].Chunk != old.Chunk || r.State != StateDegraded {
		t.Fatalf("%s, refused %+v", r.State, r.Refused)
	}
	spare := fmt.Sprint("s", g.Members())
	m.mu.Lock()
	m.layout.Groups[0].Pending = []raid.Pending{{Col: 1, Member: raid.Member{
		Server: raid.ServerID(spare), Addr: spare, Incarnation: raid.Incarnation(f.servers[spare].inc), Chunk: 9000, State: raid.MemberRebuilding,
	}}}
	m.layout.Version++
	m.mu.Unlock()
	wait(t, "filling another", v, func() bool { return v.Report().State == StateHealthy && m.pending() == 0 })
	if r := v.Report(); len(r.Refused) != 0 || r.RedundancyLeft != g.M || r.DegradedRows != 0 {
		t.Errorf("%+v", r)
	}
	f.mu.Lock()
	made := f.servers["s1"].chunks[uint64(old.Chunk)] != nil
	f.mu.Unlock()
	if made {
		t.Error("the test needs a server that refuses for good")
	}
	f.kill("s0")
	for i := range 64 {
		if _, err := v.ReadAt(page, int64(i)*raid.PageSize); err != nil || page[0] != byte(i) || page[1] != 1 {
			t.Fatalf("page %d, without s0: %v", i, err)
		}
	}
}

// A member that is being rebuilt has no chunk, for want of memory. A recovery does not ask
// that server for it, which would end the session: what else it holds is read.
func TestRefusedChunkIsNotAsked(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 512, 8, 512)
	closeTest(t, openTest(t, f, l))
	next := *l
	next.Epoch, next.FirstEpoch = 2, false
	next.Groups = cloneGroups(next.Groups)
	m := &next.Groups[0].Members[1]
	m.Chunk, m.State = 1000, raid.MemberRebuilding
	f.mu.Lock()
	f.servers["s1"].refuses = 1000
	f.mu.Unlock()
	v := openTest(t, f, &next)
	defer closeTest(t, v)
	for _, g := range l.Groups[1:] {
		for c := range raid.Col(v.geo.Members()) {
			if v.member(g.ID, c).ref.unread.Load() {
				t.Errorf("column %d of group %d was not read", c, g.ID)
			}
		}
	}
}

// Refused at too many servers, a new volume is not opened: nothing in it could be read.
func TestRefusedTooOften(t *testing.T) {
	for _, kind := range []raid.LayoutKind{raid.LayoutLog, raid.LayoutStriped} {
		f := newFakeNet(3)
		l := f.layout(kind, raid.Geometry{K: 1}, 64, 3, 64)
		if kind == raid.LayoutLog {
			f = newFakeNet(3)
			l = f.layout(kind, raid.Geometry{K: 2, M: 1}, 512, 4, 512)
		}
		f.servers["s1"].full, f.servers["s2"].full = true, true
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		v, err := Open(ctx, Config{Layout: l, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), AllowSwappable: true})
		if err == nil {
			closeTest(t, v)
		}
		if err == nil || !strings.Contains(err.Error(), "members, ") {
			t.Errorf("%v: %v", kind, err)
		}
	}
}
