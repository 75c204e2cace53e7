package store

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dmps/meta/level"
	"dmps/meta/state"
	"dmps/raid"
)

var wholeCost = flag.Bool("cost.all", false, "commands are measured beside 500,000 groups, not 20,000")

// crowd is a store of 1000 servers with so many groups of 4+2 at least.
type crowd struct {
	t    testing.TB
	s    *Store
	next uint64
	busy time.Duration // of the last command
}

func newCrowd(t testing.TB, groups int) *crowd {
	c := &crowd{t: t, s: open(t, filepath.Join(t.TempDir(), "state.db"))}
	c.s.mu.db.NoSync = true // the disk's own time is not what is measured
	for i := range 1000 {
		c.do(state.Command{Register: &state.Register{ID: server(i), Incarnation: 1, Addr: fmt.Sprintf("tcp://10.0.%d.%d:7300", i/250, i%250), MemoryTotal: 1 << 40}})
	}
	for i := 0; groups > 0; i++ {
		name := fmt.Sprint("v", i)
		c.create(name, 200<<30)
		c.do(state.Command{Attach: &state.Attach{Name: name, Holder: "h"}})
		v := c.volume(name)
		c.do(state.Command{PutReport: &state.PutReport{Volume: v.ID, Epoch: v.Epoch, Report: state.Report{State: state.Healthy, RedundancyLeft: 2}}})
		groups -= len(v.Groups)
	}
	return c
}

func server(i int) raid.ServerID { return raid.ServerID(fmt.Sprintf("s%03d", i)) }

func (c *crowd) volume(name string) *state.Volume {
	v, ok := c.s.mu.state.VolumeByName(name)
	if !ok {
		c.t.Fatal("no volume ", name)
	}
	return v
}

func (c *crowd) create(name string, bytes uint64) {
	c.do(state.Command{CreateVolume: &state.CreateVolume{Name: name, Pages: bytes / raid.PageSize, Geometry: raid.Geometry{K: 4, M: 2}, ChunkSlots: 16384, Seed: c.next}})
}

// do carries a command out as a node does, from its encoded form on.
func (c *crowd) do(cmd state.Command) any {
	c.t.Helper()
	c.next++
	cmd.Now = int64(c.next)
	data, err := cmd.Encode(level.Highest)
	if err != nil {
		c.t.Fatal(err)
	}
	began := time.Now()
	r := c.s.Apply([]Entry{{Index: c.next, Data: data}})[0]
	c.busy = time.Since(began)
	if r.Err != nil {
		c.t.Fatal(r.Err)
	}
	return r.Value
}

// heldBy lists the chunks that groups have on a server.
func (c *crowd) heldBy(id raid.ServerID) (out []raid.ChunkID) {
	for _, v := range c.s.mu.state.SortedVolumes() {
		for _, g := range v.Groups {
			for _, m := range g.Members {
				if m.Server == id {
					out = append(out, m.Chunk)
				}
			}
		}
	}
	return out
}

// BenchmarkApply measures how long each command of some size takes a replica, its file
// included: nobody is answered meanwhile. 500,000 groups with -cost.all; -benchtime 1x is
// enough.
func BenchmarkApply(b *testing.B) {
	groups := 20_000
	if *wholeCost {
		groups = 500_000
	}
	c := newCrowd(b, groups)
	measure := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			c.t = b
			var longest time.Duration
			for b.Loop() {
				f()
				longest = max(longest, c.busy)
			}
			b.ReportMetric(float64(longest.Microseconds())/1000, "ms/longest")
		})
	}
	n := 0
	measure("create-64GiB", func() { n++; c.create(fmt.Sprint("small", n), 64<<30) })
	const most = 2 << 40 // in chunks of 64 MiB: 63,000, about as many as a volume may have
	measure("create-most", func() { n++; c.create(fmt.Sprint("large", n), most) })
	measure("create-6TiB", func() {
		n++
		c.do(state.Command{CreateVolume: &state.CreateVolume{Name: fmt.Sprint("auto", n), Pages: 6 << 40 / raid.PageSize, Geometry: raid.Geometry{K: 1, M: 1}, Seed: c.next}})
	})
	last := "large2"
	measure("attach", func() { c.do(state.Command{Attach: &state.Attach{Name: last, Holder: "h"}}) })
	measure("report", func() {
		v := c.volume(last)
		c.do(state.Command{PutReport: &state.PutReport{Volume: v.ID, Epoch: v.Epoch, Report: state.Report{State: state.Healthy, RedundancyLeft: 2}}})
	})
	measure("delete-most", func() {
		c.do(state.Command{DeleteVolume: &state.DeleteVolume{Name: last, Force: true}})
		took := c.busy
		c.create(last, most)
		c.busy = took
	})
	at := 0
	measure("freed", func() {
		at++
		sv := c.s.mu.state.Servers[server(at)]
		f := &state.Freed{ID: sv.ID, Incarnation: 1}
		for id := range sv.Freeing {
			f.Chunks = append(f.Chunks, id)
		}
		slices.Sort(f.Chunks)
		c.do(state.Command{Freed: f})
	})
	// A server that is lost, and all that follows.
	measure("server-suspect", func() {
		at++
		c.do(state.Command{SetServer: &state.SetServer{ID: server(at), Incarnation: 1, State: state.ServerSuspect}})
	})
	measure("server-down", func() {
		c.do(state.Command{SetServer: &state.SetServer{ID: server(at), Incarnation: 1, State: state.ServerDown}})
	})
	heal := func() int {
		return c.do(state.Command{Heal: &state.Heal{Limit: 1024, Moves: 16}}).(state.Healed).Steps
	}
	measure("heal-1024", func() { heal() })
	for heal() > 0 {
	}
	measure("server-restarted", func() {
		at++
		c.do(state.Command{SetServer: &state.SetServer{ID: server(at), Incarnation: 1, State: state.ServerDown}})
		c.do(state.Command{Register: &state.Register{ID: server(at), Incarnation: 2, Addr: "tcp://10.0.9.9:7300", MemoryTotal: 1 << 40}})
	})
	measure("heal-1024-lost", func() { heal() })
	for heal() > 0 {
	}
	measure("server-removed", func() {
		at++
		c.do(state.Command{SetServer: &state.SetServer{ID: server(at), Incarnation: 1, State: state.ServerDown}})
		c.do(state.Command{RemoveServer: &state.RemoveServer{ID: server(at), Force: true}})
	})
	measure("heal-1024-removed", func() { heal() })
	for heal() > 0 {
	}
	measure("drain", func() { at++; c.do(state.Command{Drain: &state.Drain{ID: server(at)}}) })
	measure("heal-moves", func() { heal() })
	for i := range 20 {
		c.do(state.Command{Register: &state.Register{ID: server(1000 + i), Incarnation: 1, Addr: "tcp://10.0.9.9:7300", MemoryTotal: 1 << 40}})
	}
	measure("rebalance", func() { c.do(state.Command{Rebalance: &state.Rebalance{}}) })
	measure("heal-rebalance", func() { c.do(state.Command{Heal: &state.Heal{Limit: 1024, Moves: 100}}) })
	c.do(state.Command{Attach: &state.Attach{Name: last, Holder: "h"}})
	measure("rebuilt-1024", func() {
		v := c.volume(last)
		r := &state.Rebuilt{Volume: v.ID, Epoch: v.Epoch, Known: v.Version}
		for _, g := range v.Groups {
			for _, m := range g.Members {
				if m.State == raid.MemberRebuilding && len(r.Chunks) < 1024 {
					r.Chunks = append(r.Chunks, m.Chunk)
				}
			}
		}
		c.do(state.Command{Rebuilt: r})
	})
	if err := c.s.Rewrite(func(s *state.State) { s.Recover(1<<40, "restored") }); err != nil {
		b.Fatal(err)
	}
	measure("inventory", func() {
		at++
		c.do(state.Command{Inventory: &state.Inventory{ID: server(at), Incarnation: 1, Chunks: c.heldBy(server(at))}})
	})
	measure("inventory-empty", func() {
		at++
		c.do(state.Command{Inventory: &state.Inventory{ID: server(at), Incarnation: 1}})
	})
}
