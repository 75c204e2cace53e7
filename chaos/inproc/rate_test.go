package inproc

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/client"
	"dmps/raid"
)

// lossy is a volume full of data over eight of n servers, and what replaces its
// members.
type lossy struct {
	*Cluster
	v *client.Volume
	m *replacer
}

// startLossy fills a volume of RS 4+2 over the first eight of n servers.
func startLossy(t testing.TB, n int, memory int64, pages uint64, change ...func(*client.Config)) *lossy {
	t.Helper()
	c, err := Start(n, memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	eight := &Cluster{Servers: c.Servers[:8]}
	l := eight.Layout(raid.LayoutLog, raid.Geometry{K: 4, M: 2}, pages)
	m := &replacer{layout: *l, chunk: 1 << 20}
	first, err := m.Layout(t.Context(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(t.Context(), first, append(change, func(cfg *client.Config) {
		cfg.Meta, cfg.Lease = m, client.Lease{TTL: time.Second, Renew: 10 * time.Millisecond}
	})...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := v.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	block := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(1, 1))
	for off := int64(0); off < v.Size(); off += int64(len(block)) {
		for i := 0; i < len(block); i += 8 {
			binary.LittleEndian.PutUint64(block[i:], r.Uint64())
		}
		if _, err := v.WriteAt(block, off); err != nil {
			t.Fatal(err)
		}
	}
	return &lossy{Cluster: c, v: v, m: m}
}

// lose ends servers and has their members replaced on the others.
func (c *lossy) lose(t testing.TB, servers ...int) {
	t.Helper()
	gone := map[int]bool{}
	for _, i := range servers {
		gone[i] = true
		if err := c.Servers[i].Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var alive []int
	for i := range c.Servers {
		if !gone[i] {
			alive = append(alive, i)
		}
	}
	for _, i := range servers {
		c.m.replace(c.Cluster, i, alive)
	}
}

func (c *lossy) pulled() (n uint64) {
	for _, s := range c.Servers {
		n += s.Stats().BytesPulled
	}
	return n
}

func (c *lossy) awaitWhole(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		rep := c.v.Report()
		if c.m.healed() && rep.State == client.StateHealthy && rep.Rebuild == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not healed: %+v, %+v", rep, rep.Rebuild)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestRebuildRateOfAVolume: what all servers pull together for a volume stays
// within the rate that was set, while it changes, and reports say how it goes.
// Too fast at any time is a failure. Too slow is one if it is so all the time: for
// some seconds a busy machine may be the reason.
func TestRebuildRateOfAVolume(t *testing.T) {
	const first = 2 << 20
	c := startLossy(t, 12, 64<<20, 48<<20/raid.PageSize, func(cfg *client.Config) { cfg.RebuildRate = first })
	c.lose(t, 0, 1)
	deadline := time.Now().Add(time.Minute)
	for c.pulled() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the rebuild does not begin")
		}
		time.Sleep(time.Millisecond)
	}
	for i, rate := range []int64{first, 8 << 20, 4 << 20} {
		c.v.SetRebuildRate(rate)
		most := 0.0
		for try := 0; try < 4 && most < 0.5; try++ {
			from, start := c.pulled(), time.Now()
			time.Sleep(2 * time.Second)
			took := time.Since(start)
			share := float64(c.pulled()-from) / took.Seconds() / float64(rate)
			t.Logf("%d MiB/s: %.3f of it was pulled", rate>>20, share)
			// A burst of 50 ms, and lists of 100 ms that were under way before.
			if share > 1.15 {
				t.Errorf("pulled %.3f times the rate of %d MiB/s", share, rate>>20)
			}
			most = max(most, share)
		}
		if most < 0.5 {
			t.Errorf("pulled never more than %.3f of the rate of %d MiB/s", most, rate>>20)
		}
		rep := c.v.Report().Rebuild
		switch {
		case rep == nil:
			t.Fatal("the report says nothing of the rebuild")
		case rep.RowsLeft == 0 || rep.RowsLeft >= rep.RowsTotal || rep.MembersLeft == 0 || len(rep.Members) == 0 || !rep.Members[0].Filling:
			t.Errorf("step %d: no progress is shown: %+v", i, rep)
		case rep.RemainingSeconds <= 0 || rep.RateBytes != rate || rep.LimitBytes != rate || rep.HeldBack || rep.AtRiskSince.IsZero():
			t.Errorf("step %d: report %+v", i, rep)
		}
	}
	c.v.SetRebuildRate(0)
	c.awaitWhole(t)
	if n := c.v.Report().Counters; n["rebuild_failed_rows"] != 0 || n["cleaned_pages"] != 0 {
		t.Errorf("the servers were to do it by themselves: %v", n)
	}
}
