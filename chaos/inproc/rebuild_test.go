package inproc

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"dmps/client"
	"dmps/raid"
)

// replacer is a metadata service that gives lost members chunks on servers
// that their groups do not use yet.
type replacer struct {
	mu     sync.Mutex
	layout raid.Layout
	chunk  raid.ChunkID
}

func (m *replacer) Attach(context.Context, client.AttachRequest) (*raid.Layout, client.Lease, error) {
	panic("not used")
}

func (m *replacer) Detach(context.Context, raid.VolumeID, raid.Epoch) error { return nil }

func (m *replacer) Renew(_ context.Context, _ raid.VolumeID, _ raid.Epoch, r client.Report) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.layout.Groups {
		for c := range g.Members {
			if g.Members[c].State == raid.MemberRebuilding && slices.Contains(r.Rebuilt, g.Members[c].Chunk) {
				g.Members[c].State = raid.MemberInSync
				m.layout.Version++
			}
		}
	}
	return m.layout.Version, nil
}

func (m *replacer) Layout(context.Context, raid.VolumeID, uint64) (*raid.Layout, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.layout
	l.Groups = slices.Clone(l.Groups)
	for i := range l.Groups {
		l.Groups[i].Members = slices.Clone(l.Groups[i].Members)
	}
	return &l, nil
}

// replace moves the members of one server to others.
func (m *replacer) replace(c *Cluster, lost int, alive []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := func(i int) raid.ServerID { return raid.ServerID(fmt.Sprint("server-", i+1)) }
	for _, g := range m.layout.Groups {
		for col := range g.Members {
			if g.Members[col].Server != name(lost) {
				continue
			}
			for _, i := range alive {
				if slices.ContainsFunc(g.Members, func(o raid.Member) bool { return o.Server == name(i) }) {
					continue
				}
				m.chunk++
				s := c.Servers[i]
				g.Members[col] = raid.Member{Server: name(i), Addr: s.Addr(), Incarnation: s.Incarnation(), Chunk: m.chunk, State: raid.MemberRebuilding}
				break
			}
		}
	}
	m.layout.Version++
}

func (m *replacer) healed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.layout.Groups {
		if slices.ContainsFunc(g.Members, func(o raid.Member) bool { return o.State != raid.MemberInSync }) {
			return false
		}
	}
	return true
}

// TestServersRebuildEachOther: after the loss of two of eight servers the
// others fill the replacements among themselves; after three rounds every
// server that held the data at first is gone, and every byte is there. The
// client's link carries row lists only.
func TestServersRebuildEachOther(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	const pages = 16 << 20 / raid.PageSize
	c, err := Start(12, 24<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := c.Layout(raid.LayoutLog, g, pages)
	for i := range l.Groups { // on the first eight
		for col := range l.Groups[i].Members {
			k := (i + col) % 8
			mem := &l.Groups[i].Members[col]
			mem.Server, mem.Addr, mem.Incarnation = raid.ServerID(fmt.Sprint("server-", k+1)), c.Servers[k].Addr(), c.Servers[k].Incarnation()
		}
	}
	m := &replacer{layout: *l, chunk: 1 << 20}
	first, err := m.Layout(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(t.Context(), first, func(cfg *client.Config) {
		cfg.Meta, cfg.Lease = m, client.Lease{TTL: time.Second, Renew: 10 * time.Millisecond}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := v.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	want := make([]byte, v.Size())
	r := rand.New(rand.NewPCG(1, 1))
	for i := 0; i < len(want); i += 8 {
		binary.LittleEndian.PutUint64(want[i:], r.Uint64())
	}
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	for round := range 3 {
		for i := range 2 {
			if err := c.Servers[2*round+i].Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var alive []int
		for i := 2*round + 2; i < len(c.Servers); i++ {
			alive = append(alive, i)
		}
		m.replace(c, 2*round, alive)
		m.replace(c, 2*round+1, alive)
		start := time.Now()
		deadline := start.Add(30 * time.Second)
		for {
			rep := v.Report()
			if m.healed() && rep.State == client.StateHealthy && rep.RebuildRows == 0 && rep.RedundancyLeft == g.M {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: not healed: %+v", round, rep)
			}
			time.Sleep(2 * time.Millisecond)
		}
		t.Logf("round %d: healed in %v", round, time.Since(start).Round(time.Millisecond))
		if _, err := v.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: the content differs", round)
		}
	}
	n := v.Report().Counters
	if n["rebuilt_rows"] == 0 || n["cleaned_pages"] != 0 || n["rebuild_failed_rows"] != 0 {
		t.Fatalf("the servers were to do it by themselves: %v", n)
	}
}
