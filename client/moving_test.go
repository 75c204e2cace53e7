package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dmps/raid"
)

// drain gives every member on a server a pending one on another, as meta does;
// one at a time in a group. It reports whether the server still holds anything.
func (m *fakeMeta) drain(f *fakeNet, id string, spares ...string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	holds, changed := false, false
	for i := range m.layout.Groups {
		g := &m.layout.Groups[i]
		for c, mem := range g.Members {
			if string(mem.Server) != id {
				continue
			}
			holds = true
			if slices.ContainsFunc(g.Pending, func(p raid.Pending) bool { return int(p.Col) == c }) {
				continue
			}
			for _, s := range spares {
				if f.servers[s].dead || slices.ContainsFunc(g.Members, func(o raid.Member) bool { return string(o.Server) == s }) ||
					slices.ContainsFunc(g.Pending, func(o raid.Pending) bool { return string(o.Member.Server) == s }) {
					continue
				}
				m.chunk++
				g.Pending = append(g.Pending, raid.Pending{Col: raid.Col(c), Member: raid.Member{
					Server: raid.ServerID(s), Addr: s, Incarnation: raid.Incarnation(f.servers[s].inc), Chunk: m.chunk, State: raid.MemberRebuilding,
				}})
				slices.SortFunc(g.Pending, func(a, b raid.Pending) int { return int(a.Col) - int(b.Col) })
				changed = true
				break
			}
		}
	}
	if changed {
		m.layout.Version++
	}
	return holds
}

// cancel gives up the moves to a server.
func (m *fakeMeta) cancel(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.layout.Groups {
		g := &m.layout.Groups[i]
		g.Pending = slices.DeleteFunc(g.Pending, func(p raid.Pending) bool { return string(p.Member.Server) == id })
	}
	m.layout.Version++
}

// promoteLost makes pending members those of columns that a server lost, and
// gives the rest of them others.
func (m *fakeMeta) promoteLost(f *fakeNet, id string, spares ...string) {
	m.mu.Lock()
	for i := range m.layout.Groups {
		g := &m.layout.Groups[i]
		g.Pending = slices.DeleteFunc(g.Pending, func(p raid.Pending) bool {
			if string(g.Members[p.Col].Server) != id {
				return false
			}
			g.Members[p.Col] = p.Member
			return true
		})
	}
	m.mu.Unlock()
	m.replace(f, id, spares...)
}

func (m *fakeMeta) pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, g := range m.layout.Groups {
		n += len(g.Pending)
	}
	return n
}

// watched has a volume's reports looked at all the time: moving takes nothing
// of the redundancy, and no group counts as degraded. But if targets die: while one
// is gone that was vouched for, rows are written whose headers leave it out, and
// dead ones of them are erased. Until then the group counts as degraded, with
// nothing missing.
func watched(t *testing.T, v *Volume, targetsDie bool) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
			if r := v.Report(); r.State == StateFailed || r.RedundancyLeft != v.geo.M || r.DegradedRows != 0 || r.LostPages != 0 ||
				!targetsDie && (r.State != StateHealthy || r.DegradedGroups != 0) {
				t.Errorf("a move degrades the volume: %+v", r)
				return
			}
		}
	}()
	return func() { close(end); <-done }
}

func wait(t *testing.T, what string, v *Volume, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time: %+v", what, v.Report())
		}
	}
}

// openMoving opens a volume over the first K+M of n servers, with meta.
func openMoving(t *testing.T, g raid.Geometry, n int) (*fakeNet, *fakeMeta, *Volume) {
	f := newSlowNet(n)
	l := f.layout(raid.LayoutLog, g, 512, 4, uint32(512*3/2/4/g.K+64))
	for i := range l.Groups {
		for c := range l.Groups[i].Members {
			id := fmt.Sprint("s", (i+c)%g.Members())
			mem := &l.Groups[i].Members[c]
			mem.Server, mem.Addr, mem.Incarnation = raid.ServerID(id), id, raid.Incarnation(f.servers[id].inc)
		}
	}
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	return f, m, v
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint("s", i))
	}
	return all
}

// TestDrainUnderLoad drains one server after another: no error, no lost page,
// and never a degraded group. In the end each of them is dead, which nobody
// notices.
func TestDrainUnderLoad(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 0}, {K: 1, M: 1}, {K: 2, M: 1}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			n := g.Members() + 3
			f, m, v := openMoving(t, g, n)
			defer closeTest(t, v)
			all := names(n)
			stop := make(chan struct{})
			end := load(t, v, 4, stop)
			unwatch := watched(t, v, false)
			for i := range 3 {
				time.Sleep(20 * time.Millisecond)
				wait(t, "draining "+all[i], v, func() bool { return !m.drain(f, all[i], all[i+1:]...) })
				wait(t, "letting "+all[i]+" go", v, func() bool {
					f.mu.Lock()
					defer f.mu.Unlock()
					return len(f.servers[all[i]].conns) == 0 || len(v.allPeers()) < n && !hasPeer(v, all[i])
				})
				f.kill(all[i])
			}
			time.Sleep(20 * time.Millisecond)
			unwatch()
			close(stop)
			verifyVersions(t, v, end())
			if r := v.Report(); r.RebuildRows != 0 || r.Counters["abandoned_batches"] > 3*8 {
				t.Errorf("%+v", r)
			}
		}))
	}
}

func hasPeer(v *Volume, id string) bool {
	return slices.ContainsFunc(v.allPeers(), func(p *peer) bool { return string(p.id) == id })
}

// TestReleaseWhileMoving: a chunk that has left is released at a server that
// holds others still.
func TestReleaseWhileMoving(t *testing.T) { virtual(testReleaseWhileMoving)(t) }

func testReleaseWhileMoving(t *testing.T) {
	f, m, v := openMoving(t, raid.Geometry{K: 2, M: 1}, 4)
	defer closeTest(t, v)
	m.mu.Lock()
	old := m.layout.Groups[0].Members[0]
	m.mu.Unlock()
	wait(t, "draining", v, func() bool {
		m.drain(f, string(old.Server), "s3")
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.layout.Groups[0].Members[0].Chunk != old.Chunk
	})
	// What else moves is given up: the server keeps chunks.
	m.cancel("s3")
	wait(t, "releasing", v, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.servers[string(old.Server)].released[uint64(old.Chunk)] || !hasPeer(v, string(old.Server))
	})
}

// TestTargetDies: the server that members move to dies in the middle, at first
// before and then after the client vouched for them. Nothing is degraded, and
// the moves go elsewhere.
func TestTargetDies(t *testing.T) { virtual(testTargetDies)(t) }

func testTargetDies(t *testing.T) {
	for round := range 4 {
		f, m, v := openMoving(t, raid.Geometry{K: 4, M: 2}, 8)
		stop := make(chan struct{})
		end := load(t, v, 4, stop)
		unwatch := watched(t, v, true)
		time.Sleep(20 * time.Millisecond)
		m.mu.Lock()
		m.deaf = true // what is promoted may be missed
		m.mu.Unlock()
		m.drain(f, "s0", "s6")
		wait(t, "hearing of the layout", v, func() bool { return m.same(v) })
		if round%2 == 1 {
			wait(t, "vouching", v, func() bool { return len(v.Report().Rebuilt) == m.pending() })
		}
		f.kill("s6")
		time.Sleep(50 * time.Millisecond)
		m.cancel("s6")
		m.mu.Lock()
		m.deaf = false
		m.mu.Unlock()
		wait(t, "draining", v, func() bool { return !m.drain(f, "s0", "s7") })
		unwatch()
		close(stop)
		verifyVersions(t, v, end())
		closeTest(t, v)
	}
}

// TestSourceDies: the server that is drained dies in the middle. Pending
// members take the places of the lost ones as they are.
func TestSourceDies(t *testing.T) { virtual(testSourceDies)(t) }

func testSourceDies(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 4, M: 2}} {
		n := g.Members() + 2
		f, m, v := openMoving(t, g, n)
		all := names(n)
		stop := make(chan struct{})
		end := load(t, v, 4, stop)
		for i := range 2 {
			time.Sleep(20 * time.Millisecond)
			m.drain(f, all[i], all[i+1:]...)
			time.Sleep(time.Duration(rand.N(20)) * time.Millisecond)
			f.kill(all[i])
			time.Sleep(5 * time.Millisecond)
			m.promoteLost(f, all[i], all[i+1:]...)
			waitHealed(t, v, m)
		}
		close(stop)
		verifyVersions(t, v, end())
		if r := v.Report(); r.RedundancyLeft != g.M || r.RebuildRows != 0 {
			t.Errorf("%+v", r)
		}
		closeTest(t, v)
	}
}

// TestRestartInTheMiddleOfMove: the client is gone in the middle of a move, once
// before and once after meta believed its last report. The next one does not
// take what the new members lack for what never was.
func TestRestartInTheMiddleOfMove(t *testing.T) { virtual(testRestartInTheMiddleOfMove)(t) }

func testRestartInTheMiddleOfMove(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	for round := range 8 {
		f, m, v := openMoving(t, g, 5)
		all := names(5)
		stop := make(chan struct{})
		end := load(t, v, 4, stop)
		time.Sleep(10 * time.Millisecond)
		m.drain(f, "s0", all[1:]...)
		if round%2 == 1 {
			// Meta's answers do not arrive: members are promoted, and the client
			// does not know. Then a new member goes and comes back.
			time.Sleep(time.Duration(rand.N(20)) * time.Millisecond)
			m.mu.Lock()
			m.mute = true
			m.mu.Unlock()
			for range 10 {
				time.Sleep(2 * time.Millisecond)
				f.cut(all[1+rand.N(4)])
			}
		} else {
			time.Sleep(time.Duration(rand.N(30)) * time.Millisecond)
		}
		close(stop)
		versions := end()
		closeTest(t, v)
		m.mu.Lock()
		m.mute = false
		m.mu.Unlock()
		l, err := m.Layout(context.Background(), 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		l.Epoch, l.FirstEpoch = 2, false
		m.mu.Lock()
		m.layout.Epoch, m.layout.FirstEpoch = 2, false
		m.mu.Unlock()
		v = openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
		verifyVersions(t, v, versions)
		wait(t, "draining", v, func() bool { return !m.drain(f, "s0", all[1:]...) })
		f.kill("s0")
		verifyVersions(t, v, versions)
		waitHealed(t, v, m)
		closeTest(t, v)
	}
}

// same reports whether a volume has the present layout.
func (m *fakeMeta) same(v *Volume) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.version == m.layout.Version
}

// TestLostAfterPromotion: while a batch is in flight its column gets another
// member, and loses that too. Nobody is thought to have what only those two had.
func TestLostAfterPromotion(t *testing.T) {
	f := newFakeNet(5)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	for c := range l.Groups[0].Members {
		id := fmt.Sprint("s", c)
		l.Groups[0].Members[c].Server, l.Groups[0].Members[c].Addr = raid.ServerID(id), id
		l.Groups[0].Members[c].Incarnation = raid.Incarnation(f.servers[id].inc)
	}
	v := openTest(t, f, l, func(c *Config) { c.SuspectAfter, c.HardDeadline = time.Minute, time.Minute })
	defer closeTest(t, v)
	next := *l
	change := func(f func(g *raid.Group)) {
		t.Helper()
		next.Version++
		next.Groups = cloneGroups(next.Groups)
		f(&next.Groups[0])
		now := next
		if err := v.applyLayout(&now); err != nil {
			t.Fatal(err)
		}
	}
	on := func(id string, chunk raid.ChunkID) raid.Member {
		return raid.Member{Server: raid.ServerID(id), Addr: id, Incarnation: raid.Incarnation(f.servers[id].inc), Chunk: chunk, State: raid.MemberRebuilding}
	}
	change(func(g *raid.Group) { g.Pending = []raid.Pending{{Col: 0, Member: on("s3", 100)}} })
	wait(t, "vouching", v, func() bool { return slices.Contains(v.leaseReport(true).Rebuilt, 100) })

	f.freeze("s2")
	page := make([]byte, raid.PageSize)
	for i := range page {
		page[i] = byte(i % 7)
	}
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteAt(page, 0)
		done <- err
	}()
	wait(t, "writing all but the parity", v, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return slices.ContainsFunc(v.batches, func(b *batch) bool { return b.left == 1 })
	})
	change(func(g *raid.Group) {
		g.Members[0], g.Pending = g.Pending[0].Member, nil
		g.Members[0].State = raid.MemberInSync
	})
	change(func(g *raid.Group) { g.Members[0] = on("s4", 101) })
	f.thaw("s2")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wait(t, "filling", v, func() bool { return slices.Contains(v.leaseReport(true).Rebuilt, 101) })
	got := make([]byte, len(page))
	if _, err := v.ReadAt(got, 0); err != nil || !slices.Equal(got, page) {
		t.Fatalf("the page is not there: %v", err)
	}
	if c := v.Report().Counters; c["corrupt_pages"] != 0 {
		t.Fatalf("the new member was thought to have the page: %v", c)
	}
}

// TestNoMemoryForTarget: a server that has no memory for a chunk that is to move
// there is used for those that it holds, also after its session was cut.
func TestNoMemoryForTarget(t *testing.T) {
	f := newFakeNet(5)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 512, 4, 512)
	m := newFakeMeta(l)
	v := openTest(t, f, l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	full := func(is bool) {
		f.mu.Lock()
		f.servers["s3"].full = is
		f.mu.Unlock()
	}
	full(true)
	m.drain(f, "s0", "s3")
	if m.pending() == 0 {
		t.Fatal("nothing moves to a server that holds something")
	}
	wait(t, "hearing of the move", v, func() bool { return m.same(v) })
	f.cut("s3")
	wait(t, "noticing", v, func() bool { return v.Report().Counters["sessions_lost"] > 0 })
	wait(t, "using the server again", v, func() bool { return len(v.Report().Suspect) == 0 && v.Report().State == StateHealthy })
	// It is given up: memory that comes free is not taken for that any more.
	m.mu.Lock()
	var chunks []uint64
	for _, g := range m.layout.Groups {
		for _, p := range g.Pending {
			chunks = append(chunks, uint64(p.Member.Chunk))
		}
	}
	m.mu.Unlock()
	m.cancel("s3")
	wait(t, "hearing that it does not move", v, func() bool { return m.same(v) })
	full(false)
	time.Sleep(redialMost + redialMost/4)
	f.mu.Lock()
	for _, c := range chunks {
		if f.servers["s3"].chunks[c] != nil {
			t.Errorf("chunk %d was made although nothing moves there", c)
		}
	}
	f.mu.Unlock()
	m.drain(f, "s0", "s3")
	wait(t, "moving", v, func() bool { return m.pending() == 0 })
}

// TestReleaseOfReplaced: a member is replaced although its server lives, and holds
// others. What it held is released.
func TestReleaseOfReplaced(t *testing.T) {
	f := newFakeNet(5)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 512, 4, 512)
	v := openTest(t, f, l)
	defer closeTest(t, v)
	next := *l
	next.Version++
	next.Groups = cloneGroups(next.Groups)
	old := &next.Groups[0].Members[0]
	chunk := uint64(old.Chunk)
	*old = raid.Member{Server: "s4", Addr: "s4", Incarnation: raid.Incarnation(f.servers["s4"].inc), Chunk: 100, State: raid.MemberRebuilding}
	if err := v.applyLayout(&next); err != nil {
		t.Fatal(err)
	}
	wait(t, "releasing", v, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.servers["s0"].released[chunk]
	})
}
