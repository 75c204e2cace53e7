package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"dmps/raid"
)

// fakeMeta replaces members that its test tells it to, as the metadata service
// does, and believes reports.
type fakeMeta struct {
	mu     sync.Mutex
	layout raid.Layout
	chunk  raid.ChunkID
	deaf   bool // believes no report
	mute   bool // its answers do not arrive
}

func newFakeMeta(l *raid.Layout) *fakeMeta {
	m := &fakeMeta{layout: *l, chunk: 10000}
	m.layout.Groups = cloneGroups(l.Groups)
	return m
}

func cloneGroups(g []raid.Group) []raid.Group {
	out := slices.Clone(g)
	for i := range out {
		out[i].Members = slices.Clone(out[i].Members)
		out[i].Pending = slices.Clone(out[i].Pending)
	}
	return out
}

func (m *fakeMeta) Attach(context.Context, AttachRequest) (*raid.Layout, Lease, error) {
	panic("not used")
}

func (m *fakeMeta) Detach(context.Context, raid.VolumeID, raid.Epoch) error { return nil }

func (m *fakeMeta) Renew(_ context.Context, _ raid.VolumeID, _ raid.Epoch, r Report) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.layout.Groups {
		if m.deaf {
			break
		}
		g := &m.layout.Groups[i]
		for c := range g.Members {
			mem := &g.Members[c]
			if mem.State == raid.MemberRebuilding && slices.Contains(r.Rebuilt, mem.Chunk) {
				mem.State = raid.MemberInSync
				m.layout.Version++
			}
			if mem.State == raid.MemberInSync && slices.Contains(r.Behind, mem.Chunk) {
				mem.State = raid.MemberRebuilding
				m.layout.Version++
			}
		}
		g.Pending = slices.DeleteFunc(g.Pending, func(p raid.Pending) bool {
			if !slices.Contains(r.Rebuilt, p.Member.Chunk) {
				return false
			}
			g.Members[p.Col] = p.Member
			g.Members[p.Col].State = raid.MemberInSync
			m.layout.Version++
			return true
		})
	}
	if m.mute {
		return 0, errors.New("no answer")
	}
	return m.layout.Version, nil
}

func (m *fakeMeta) Layout(context.Context, raid.VolumeID, uint64) (*raid.Layout, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.layout
	l.Groups = cloneGroups(l.Groups)
	return &l, nil
}

// replace gives every member on server lost a chunk on a server that its group
// does not use yet.
func (m *fakeMeta) replace(f *fakeNet, lost string, spares ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range m.layout.Groups {
		g := &m.layout.Groups[i]
		for c := range g.Members {
			if string(g.Members[c].Server) != lost {
				continue
			}
			for _, s := range spares {
				if slices.ContainsFunc(g.Members, func(o raid.Member) bool { return string(o.Server) == s }) {
					continue
				}
				m.chunk++
				g.Members[c] = raid.Member{Server: raid.ServerID(s), Addr: s, Incarnation: raid.Incarnation(f.servers[s].inc), Chunk: m.chunk, State: raid.MemberRebuilding}
				break
			}
		}
	}
	m.layout.Version++
}

func (m *fakeMeta) healed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.layout.Groups {
		for _, mem := range g.Members {
			if mem.State != raid.MemberInSync {
				return false
			}
		}
	}
	return true
}

func waitHealed(t *testing.T, v *Volume, m *fakeMeta) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !m.healed() || v.Report().State != StateHealthy {
		if time.Now().After(deadline) {
			t.Fatalf("not healed: %+v", v.Report())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestThreeRoundsOfLoss kills M servers, lets them be replaced and filled, and
// kills the next M, three times, under load: nothing is lost.
func TestThreeRoundsOfLoss(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			servers := g.Members() + 3*g.M
			f := newSlowNet(servers)
			l := f.layout(raid.LayoutLog, g, 512, 4, uint32(512*3/2/4/g.K+64))
			m := newFakeMeta(l)
			v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
			defer closeTest(t, v)
			var spares []string
			for i := range servers {
				spares = append(spares, fmt.Sprint("s", i))
			}
			stop := make(chan struct{})
			wait := load(t, v, 4, stop)
			for round := range 3 {
				time.Sleep(30 * time.Millisecond)
				gone := spares[:g.M]
				spares = spares[g.M:]
				for _, id := range gone {
					f.kill(id)
				}
				time.Sleep(30 * time.Millisecond)
				for _, id := range gone {
					m.replace(f, id, spares...)
				}
				waitHealed(t, v, m)
				if r := v.Report(); r.RedundancyLeft != g.M || r.RebuildRows != 0 {
					t.Fatalf("round %d: %+v", round, r)
				}
			}
			close(stop)
			verifyVersions(t, v, wait())
		}))
	}
}

// TestRestartInTheMiddleOfRebuild: a client that opens a volume with members
// that are being rebuilt must not take what they lack for what never was.
func TestRestartInTheMiddleOfRebuild(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	f := newFakeNet(4)
	l := f.layout(raid.LayoutLog, g, 256, 3, 128)
	for i := range l.Groups { // s3 is the spare
		for c := range l.Groups[i].Members {
			id := fmt.Sprint("s", (i+c)%3)
			mem := &l.Groups[i].Members[c]
			mem.Server, mem.Addr, mem.Incarnation = raid.ServerID(id), id, raid.Incarnation(f.servers[id].inc)
		}
	}
	v := openTest(t, f, l)
	version := make([]uint64, 256)
	b := make([]byte, raid.PageSize)
	for p := range version {
		version[p] = 1
		stamp(b, p, 1)
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
	f.kill("s0")
	m := newFakeMeta(l)
	m.replace(f, "s0", "s3")
	l, _ = m.Layout(context.Background(), 1, 0)
	l.Epoch, l.FirstEpoch = 2, false
	v = openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	verifyVersions(t, v, version)
	waitHealed(t, v, m)
	f.kill("s1")
	verifyVersions(t, v, version)
}
