package client

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/mem"
)

// scrubRig is memory servers with real memory, in this process, that pull from
// each other.
type scrubRig struct {
	t       testing.TB
	net     mem.Network
	servers map[string]*server.Server
	hosts   map[string]*mem.Host
}

func newScrubRig(t testing.TB, n int) *scrubRig {
	t.Helper()
	r := &scrubRig{t: t, servers: map[string]*server.Server{}, hosts: map[string]*mem.Host{}}
	for i := range n {
		id := fmt.Sprint("s", i)
		s, err := server.New(server.Config{
			ID: raid.ServerID(id), Cluster: "c", Memory: 8 << 20, AllowSwappable: true, Peers: r.net.Dialer(), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		r.servers[id], r.hosts[id] = s, r.net.Serve(id, s)
		r.hosts[id].Delay(lag)
	}
	t.Cleanup(func() {
		for id, h := range r.hosts {
			h.Close()
			if err := r.servers[id].Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *scrubRig) layout(g raid.Geometry, pages uint64, groups int, rows uint32) *raid.Layout {
	l := &raid.Layout{
		Volume: 1, Name: "test", Kind: raid.LayoutLog, Geometry: g, Pages: pages, ChunkSlots: rows, MinAck: g.K, Epoch: 1, FirstEpoch: true, Cluster: "c",
	}
	for i := range groups {
		gr := raid.Group{ID: raid.GroupID(i)}
		for c := range g.Members() {
			id := fmt.Sprint("s", (i+c)%len(r.servers))
			gr.Members = append(gr.Members, raid.Member{
				Server: raid.ServerID(id), Addr: id, Incarnation: r.servers[id].Incarnation(), Chunk: raid.ChunkID(i*g.Members() + c + 1),
			})
		}
		l.Groups = append(l.Groups, gr)
	}
	return l
}

func (r *scrubRig) open(l *raid.Layout, change ...func(*Config)) *Volume {
	r.t.Helper()
	cfg := Config{Layout: l, Dialer: r.net.Dialer(), ArenaBytes: 4 << 20, AllowSwappable: true, Logger: quiet(), Patience: 30 * time.Second, DialTimeout: 10 * time.Second}
	for _, c := range change {
		c(&cfg)
	}
	v, err := Open(context.Background(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// slot is a slot in its server's memory, its page or its header: the server's own.
func (r *scrubRig) slot(m raid.Member, at raid.Index, headerBytes int, page bool) []byte {
	r.t.Helper()
	s, _, err := r.servers[string(m.Server)].Open(context.Background(), transport.Hello{
		Cluster: "c", Volume: 1, Epoch: 1 << 40, Mode: transport.ModeReader, Client: "rig",
	}, func(error) {})
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.Close()
	io := &transport.SlotIO{
		Chunk: uint64(m.Chunk), HeaderBytes: headerBytes, Runs: []transport.Run{{Start: uint32(at), Count: 1}}, Segs: 1, Headers: make([]byte, headerBytes),
	}
	begin := s.BeginReadHeaders
	if page {
		io.PageMask, begin = 1, s.BeginRead
	}
	if err := begin(io); err != nil {
		r.t.Fatal(err)
	}
	defer s.EndRead(io)
	return io.Mem[0]
}

// header is that of a slot of data.
func (r *scrubRig) header(m raid.Member, slot raid.Index) []byte {
	r.t.Helper()
	return r.slot(m, slot, raid.HeaderSize, false)[:raid.HeaderSize]
}

// flip changes a byte of a page, or of its header behind it.
func (r *scrubRig) flip(m raid.Member, slot raid.Index, headerBytes, at int) {
	r.t.Helper()
	page := at < raid.PageSize
	r.slot(m, slot, headerBytes, page)[at%raid.PageSize] ^= 0x10
}

// rewrite changes a header so that it is sound.
func (r *scrubRig) rewrite(m raid.Member, slot raid.Index, change func(*raid.Header)) {
	r.t.Helper()
	b := r.header(m, slot)
	h, err := raid.ParseHeader(b)
	if err != nil {
		r.t.Fatal(err)
	}
	change(&h)
	h.Put(b, nil)
}

// slotsInUse lists what a scrub has to look at: group, slot and column.
type placeOf struct {
	grp raid.GroupID
	row raid.UsedRow
	col raid.Col
}

func slotsInUse(v *Volume) []placeOf {
	v.mu.Lock()
	defer v.mu.Unlock()
	var l []placeOf
	for g := range v.layout.Groups {
		rows, _ := v.mu.log.UsedRows(raid.GroupID(g), 0, make([]raid.UsedRow, 0, v.layout.ChunkSlots))
		for _, row := range rows {
			for c := range raid.Col(v.geo.Members()) {
				if int(c) >= v.geo.K || row.Filled&(1<<c) != 0 {
					l = append(l, placeOf{raid.GroupID(g), row, c})
				}
			}
		}
	}
	return l
}
