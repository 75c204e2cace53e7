package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/mem"
)

// mirror is three servers in virtual time; two hold as many rows as fit into a
// request, the third is to be filled.
type mirror struct {
	servers []*Server
	hosts   []*mem.Host
	target  transport.Conn // of servers[2]
	spec    transport.RebuildSpec
}

func newMirror(t *testing.T, c Config) *mirror {
	t.Helper()
	var n mem.Network
	m := &mirror{spec: transport.RebuildSpec{Chunk: 2, K: 1, M: 2, Col: 2}}
	d := n.Dialer()
	reg := make([]byte, 32*(raid.PageSize+raid.HeaderSize))
	if err := d.Register(reg); err != nil {
		t.Fatal(err)
	}
	h := raid.Header{Kind: raid.KindPage, Filled: 1, Members: 7, Page: 5, Seq: 9, CRC: raid.Checksum(reg[:raid.PageSize]), Site: raid.Site{Volume: 1}}
	for i := range 3 {
		sc := c
		if i != 2 {
			sc = Config{}
		}
		sc.ID, sc.Cluster, sc.Peers = raid.ServerID(fmt.Sprint(i)), "c", n.Dialer()
		s := start(t, sc)
		host := n.Serve(string(sc.ID), s)
		t.Cleanup(host.Close)
		m.servers, m.hosts = append(m.servers, s), append(m.hosts, host)
		conn, _, err := d.Dial(t.Context(), string(sc.ID), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.OpenChunk(t.Context(), uint64(i), transport.ChunkSpec{Slots: transport.MaxRebuildRows, HeaderBytes: raid.HeaderSize}); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			m.target = conn
			continue
		}
		m.spec.Sources = append(m.spec.Sources, transport.RebuildSource{Addr: string(sc.ID), Incarnation: uint64(s.Incarnation()), Chunk: uint64(i), Col: uint8(i)})
		for from := 0; from < transport.MaxRebuildRows; from += 32 {
			done := make(chan struct{})
			q := &transport.Request{Op: transport.OpWrite, Chunk: uint64(i), Done: func(*transport.Request) { close(done) }}
			for k := range 32 {
				head := reg[32*raid.PageSize+k*raid.HeaderSize:][:raid.HeaderSize]
				h.Index = raid.Index(from + k)
				h.Put(head, nil)
				q.Segs = append(q.Segs, transport.Seg{Index: uint32(from + k), Header: head, Page: reg[k*raid.PageSize : (k+1)*raid.PageSize]})
			}
			if err := conn.Submit(q); err != nil {
				t.Fatal(err)
			}
			conn.Kick()
			if <-done; q.Err != nil {
				t.Fatal(q.Err)
			}
		}
	}
	for i := range uint32(transport.MaxRebuildRows) {
		m.spec.Rows = append(m.spec.Rows, transport.RebuildRow{Index: i, Tag: raid.TagOf(9), Filled: 1, Have: 3})
	}
	t.Cleanup(func() { _ = d.Close() })
	return m
}

// rebuild does n whole requests at a time, which must succeed, and returns how
// long they took.
func (m *mirror) rebuild(t *testing.T, n int) time.Duration {
	t.Helper()
	errs := make(chan error, n)
	begun := time.Now()
	for range n {
		go func() {
			res, err := m.target.Rebuild(context.Background(), &m.spec)
			if err == nil && res.Failed != nil {
				err = fmt.Errorf("%d rows failed: %v", len(res.Failed), res.Failed[0].Reason)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	return time.Since(begun)
}

// Both rates are honoured within 10 %, by one request and by several.
func TestRebuildRate(t *testing.T) {
	const bytes = transport.MaxRebuildRows * (raid.PageSize + raid.HeaderSize)
	for _, c := range []struct {
		server, request int64
		n               int
		want            int64 // bytes a second, of all together
	}{
		{0, 1 << 20, 1, 1 << 20},
		{1 << 20, 0, 1, 1 << 20},
		{1 << 20, 0, 3, 1 << 20},
		{1 << 20, 300 << 10, 2, 600 << 10},
		{1 << 20, 700 << 10, 4, 1 << 20},
		{0, 64 << 10, 4, 256 << 10},
		{64 << 20, 4 << 20, 1, 4 << 20},
	} {
		t.Run(fmt.Sprintf("server=%d,request=%d,n=%d", c.server, c.request, c.n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMirror(t, Config{RebuildRate: c.server})
				m.hosts[0].Delay(time.Millisecond)
				m.spec.RateBytes = c.request
				took := m.rebuild(t, c.n).Seconds()
				if rate := float64(c.n*bytes) / took; rate < 0.9*float64(c.want) || rate > 1.1*float64(c.want) {
					t.Errorf("%.0f bytes a second, not %d", rate, c.want)
				}
				st := m.servers[2].Stats()
				if st.RowsRebuilt != uint64(c.n*transport.MaxRebuildRows) || st.BytesPulled != uint64(c.n*bytes) || st.RebuildFailed != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// A slot whose header names another place is neither a source nor right, whatever
// else it says.
func TestRebuildMisplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, Config{})
		misplace := func(server, chunk int, slot uint32, f func(*raid.Header)) {
			t.Helper()
			c := m.servers[server].lookup(raid.ChunkID(chunk))
			h, err := raid.ParseHeader(c.head(slot))
			if err != nil {
				t.Fatal(err)
			}
			f(&h)
			head := make([]byte, raid.HeaderSize)
			h.Put(head, nil)
			c.store(slot, head, c.page(slot), false)
		}
		for i := range 2 {
			misplace(i, i, 5, func(h *raid.Header) { h.Index = 6 })
			misplace(i, i, 7, func(h *raid.Header) { h.Volume = 2 })
		}
		misplace(0, 0, 9, func(h *raid.Header) { h.Index = 8 }) // the other has it
		rebuild := func(want ...transport.RebuildFailure) {
			t.Helper()
			if res, err := m.target.Rebuild(t.Context(), &m.spec); err != nil || !slices.Equal(res.Failed, want) {
				t.Fatal(res.Failed, err)
			}
		}
		rebuild(transport.RebuildFailure{Row: 5, Reason: transport.RebuildHeader, Col: 1}, transport.RebuildFailure{Row: 7, Reason: transport.RebuildHeader, Col: 1})
		for i := range 2 {
			misplace(i, i, 5, func(h *raid.Header) { h.Index = 5 })
			misplace(i, i, 7, func(h *raid.Header) { h.Volume = 1 })
		}
		misplace(0, 0, 9, func(h *raid.Header) { h.Index = 9 })
		rebuild()
		m.spec.Verify = true
		rebuild()
		misplace(2, 2, 3, func(h *raid.Header) { h.Index = 4 })
		misplace(2, 2, 4, func(h *raid.Header) { h.Volume = 0 })
		misplace(2, 2, 6, func(h *raid.Header) { h.Group = 1 })
		misplace(0, 0, 8, func(h *raid.Header) { h.Index = 4 })
		rebuild(
			transport.RebuildFailure{Row: 3, Reason: transport.RebuildHeader, Col: 2},
			transport.RebuildFailure{Row: 4, Reason: transport.RebuildHeader, Col: 2},
			transport.RebuildFailure{Row: 6, Reason: transport.RebuildMismatch, Col: 2},
			transport.RebuildFailure{Row: 8, Reason: transport.RebuildHeader, Col: 0},
		)
	})
}

// Sessions with sources are kept between requests, and closed when idle.
func TestRebuildLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, Config{})
		sessions := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := m.servers[0].Stats().Sessions; n != want {
				t.Errorf("%d sessions at the source, not %d", n, want)
			}
		}
		sessions(1)
		m.rebuild(t, 2)
		sessions(2)
		time.Sleep(linkIdle - time.Second)
		sessions(2)
		m.rebuild(t, 1)
		time.Sleep(linkIdle - time.Second)
		sessions(2)
		time.Sleep(2 * time.Second)
		sessions(1)
		m.rebuild(t, 1)
		sessions(2)
		if err := m.target.Close(); err != nil {
			t.Fatal(err)
		}
		sessions(1)
	})
}

// A source whose session ends is dialled again, once; one that is frozen is
// given up, and the rows come from the other.
func TestRebuildFrozenSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, Config{})
		m.spec.RateBytes = 1 << 20 // four seconds
		go func() {
			time.Sleep(time.Second)
			m.hosts[0].Disconnect()
			time.Sleep(time.Second)
			m.hosts[0].Stall(true)
		}()
		if took := m.rebuild(t, 1); took < 4*time.Second || took > 4*time.Second+pullDeadline+linkDial+time.Second {
			t.Errorf("took %v", took)
		}
		if m.servers[1].Stats().PagesOut == 0 {
			t.Error("nothing was read from the other source")
		}
		m.hosts[0].Stall(false)
	})
}

// A server that closes ends the rebuilds that it runs, also while they wait
// for a frozen source.
func TestRebuildServerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, Config{})
		m.hosts[0].Stall(true)
		m.hosts[1].Stall(true)
		errs := make(chan error, 1)
		begun := time.Now()
		go func() {
			_, err := m.target.Rebuild(context.Background(), &m.spec)
			errs <- err
		}()
		synctest.Wait()
		if err := m.servers[2].Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-errs; !errors.Is(err, transport.ErrClosed) {
			t.Error(err)
		}
		if d := time.Since(begun); d != 0 {
			t.Errorf("took %v", d)
		}
		m.hosts[0].Stall(false)
		m.hosts[1].Stall(false)
	})
}

// Whatever is taken, in whatever order it is given back: no buffer is held
// twice, and none is lost.
func TestRebuildPool(t *testing.T) {
	p, err := newRebuildPool()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		held := map[uint16]bool{}
		var takes [][]uint16
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			n := rapid.IntRange(1, 600).Draw(t, "n")
			if len(takes) > 0 && (len(held)+n > rebuildPages || rapid.Bool().Draw(t, "give")) {
				for _, id := range takes[0] {
					delete(held, id)
				}
				p.give(takes[0])
				takes = takes[1:]
				continue
			}
			dst := make([]uint16, n)
			if err := p.take(context.Background(), dst); err != nil {
				t.Fatal(err)
			}
			takes = append(takes, dst)
			for _, id := range dst {
				if held[id] || id >= rebuildPages {
					t.Fatalf("buffer %d is held twice", id)
				}
				held[id] = true
			}
		}
		for _, ids := range takes {
			p.give(ids)
		}
		if len(p.mu.free) != rebuildPages {
			t.Fatalf("%d buffers are free", len(p.mu.free))
		}
	})
}

// Who waits first is served first, and who gives up waiting is in nobody's way.
func TestRebuildPoolOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := newRebuildPool()
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := p.close(); err != nil {
				t.Error(err)
			}
		}()
		all := make([]uint16, rebuildPages)
		if err := p.take(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 3)
		ctx, cancel := context.WithCancel(t.Context())
		for i, n := range []int{500, 400, 1} {
			x := t.Context()
			if i == 1 {
				x = ctx
			}
			go func() {
				if err := p.take(x, make([]uint16, n)); err != nil {
					i = -1
				}
				order <- i
			}()
			synctest.Wait()
		}
		p.give(all[:499])
		synctest.Wait()
		if len(order) != 0 {
			t.Error("a small one overtook a large one")
		}
		cancel()
		synctest.Wait()
		p.give(all[499:501])
		synctest.Wait()
		if got := []int{<-order, <-order, <-order}; got[0] != -1 || !slices.Contains(got[1:], 0) || !slices.Contains(got[1:], 2) {
			t.Errorf("order %v", got)
		}
	})
}
