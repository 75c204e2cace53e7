package server

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

// BenchmarkPlainStream is the bar for a rebuild: one TCP stream, one way, of
// messages of 128 KiB. cpu-ns/B is what both its ends take of all cores for a
// byte: where they share the cores with everybody else, that bounds the speed.
func BenchmarkPlainStream(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	const size = 128 << 10
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		msg := make([]byte, size)
		for {
			if _, err := io.ReadFull(c, msg); err != nil {
				if err == io.EOF {
					err = nil
				}
				done <- err
				return
			}
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, size)
	b.SetBytes(size)
	c0, n := cpu(), 0
	for b.Loop() {
		if _, err := c.Write(msg); err != nil {
			b.Fatal(err)
		}
		n += size
	}
	c.Close()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cpu()-c0)/float64(n), "cpu-ns/B")
}

// BenchmarkRebuild fills a chunk of 2048 slots from the other servers of its
// group, all in this process, over TCP on loopback. MB/s is what the target
// pulls, to be compared with BenchmarkPlainStream; rebuilt-MB/s are the pages
// that it stores.
func BenchmarkRebuild(b *testing.B) {
	for _, g := range []raid.Geometry{{K: 1, M: 2}, {K: 2, M: 1}, {K: 4, M: 2}} {
		for _, col := range []int{0, g.K} {
			b.Run(fmt.Sprintf("%v/column=%d", g, col), func(b *testing.B) { benchmarkRebuild(b, g, col, false) })
		}
	}
}

// BenchmarkVerify verifies the chunk that BenchmarkRebuild fills: rebuilt-MB/s
// are the pages that are verified.
func BenchmarkVerify(b *testing.B) {
	for _, g := range []raid.Geometry{{K: 1, M: 2}, {K: 4, M: 2}} {
		for _, col := range []int{0, g.K} {
			b.Run(fmt.Sprintf("%v/column=%d", g, col), func(b *testing.B) { benchmarkRebuild(b, g, col, true) })
		}
	}
}

func benchmarkRebuild(b *testing.B, g raid.Geometry, col int, verify bool) {
	const slots = 2048
	var d tcp.Dialer
	defer d.Close()
	mem := make([]byte, 32*(raid.PageSize+raid.MaxHeaderSize))
	if err := d.Register(mem); err != nil {
		b.Fatal(err)
	}
	coder, err := raid.NewCoder(g)
	if err != nil {
		b.Fatal(err)
	}
	page := make([]byte, raid.PageSize)
	for i := range page {
		page[i] = byte(i * i >> 3)
	}
	// All data pages are the same; parity follows.
	data, parity := make([][]byte, g.K), make([][]byte, g.M)
	table := make([]raid.RowEntry, g.K)
	filled := uint16(1)<<g.K - 1
	h := raid.Header{Kind: raid.KindPage, Filled: filled, Members: 1<<g.Members() - 1, Page: 5, Seq: 9, CRC: raid.Checksum(page), Site: raid.Site{Volume: 1}}
	for i := range data {
		data[i] = page
		table[i] = raid.RowEntry{Page: 5, CRC: h.CRC, Kind: raid.KindPage}
	}
	for i := range parity {
		parity[i] = make([]byte, raid.PageSize)
	}
	coder.EncodeRow(data, parity)
	spec := transport.RebuildSpec{Chunk: uint64(col), K: g.K, M: g.M, Col: uint8(col)}
	var target transport.Conn
	var server *Server
	for i := range g.Members() {
		s := start(b, Config{ID: raid.ServerID(fmt.Sprint(i)), Cluster: "c", Listen: "127.0.0.1:0"})
		c, _, err := d.Dial(b.Context(), s.Addr(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, nil)
		if err != nil {
			b.Fatal(err)
		}
		size := raid.HeaderBytes(g, raid.Col(i))
		if err := c.OpenChunk(b.Context(), uint64(i), transport.ChunkSpec{Slots: slots, HeaderBytes: uint32(size)}); err != nil {
			b.Fatal(err)
		}
		if i == col {
			target, server = c, s
			continue
		}
		done := make(chan struct{}, 1)
		q := &transport.Request{Op: transport.OpWrite, Chunk: uint64(i), Done: func(*transport.Request) { done <- struct{}{} }}
		for k := range 32 {
			o := 32*raid.PageSize + k*raid.MaxHeaderSize
			seg := transport.Seg{Header: mem[o : o+size], Page: mem[k*raid.PageSize : (k+1)*raid.PageSize]}
			if i < g.K || g.Mirror() {
				copy(seg.Page, page)
			} else {
				copy(seg.Page, parity[i-g.K])
			}
			q.Segs = append(q.Segs, seg)
		}
		for from := uint32(0); from < slots; from += 32 {
			for k := range q.Segs {
				seg := &q.Segs[k]
				seg.Index = from + uint32(k)
				h.Index = raid.Index(seg.Index)
				if i < g.K || g.Mirror() {
					h.Put(seg.Header, nil)
					continue
				}
				p := h
				p.Kind, p.Page, p.CRC = raid.KindParity, 0, raid.Checksum(seg.Page)
				p.Put(seg.Header, table)
			}
			if err := c.Submit(q); err != nil {
				b.Fatal(err)
			}
			c.Kick()
			if <-done; q.Err != nil {
				b.Fatal(q.Err)
			}
		}
		spec.Sources = append(spec.Sources, transport.RebuildSource{Addr: s.Addr(), Incarnation: uint64(s.Incarnation()), Chunk: uint64(i), Col: uint8(i)})
	}
	var specs [2]transport.RebuildSpec
	for i := range specs {
		specs[i] = spec
		for k := range uint32(slots / len(specs)) {
			specs[i].Rows = append(specs[i].Rows, transport.RebuildRow{
				Index: uint32(i*slots/len(specs)) + k, Tag: raid.TagOf(9), Filled: filled, Have: (1<<g.Members() - 1) &^ (1 << col),
			})
		}
	}
	if verify {
		for i := range specs {
			if res, err := target.Rebuild(b.Context(), &specs[i]); err != nil || res.Failed != nil {
				b.Fatal(res, err)
			}
			specs[i].Verify = true
		}
	}
	pulled, t0, c0 := server.Stats().BytesPulled, time.Now(), cpu()
	b.ReportAllocs()
	n := 0
	errs := make(chan error, len(specs))
	for b.Loop() {
		for i := range specs {
			go func() {
				res, err := target.Rebuild(b.Context(), &specs[i])
				if err == nil && res.Failed != nil {
					err = fmt.Errorf("%d rows failed: %v", len(res.Failed), res.Failed[0].Reason)
				}
				errs <- err
			}()
		}
		for range specs {
			if err := <-errs; err != nil {
				b.Fatal(err)
			}
		}
		n += slots
	}
	took, used := time.Since(t0).Seconds(), cpu()-c0
	pulled = server.Stats().BytesPulled - pulled
	b.ReportMetric(float64(pulled)/1e6/took, "MB/s")
	if pulled > 0 {
		b.ReportMetric(float64(used)/float64(pulled), "cpu-ns/B")
	}
	b.ReportMetric(float64(n*raid.PageSize)/1e6/took, "rebuilt-MB/s")
	b.ReportMetric(float64(used)/1e3/float64(n), "cpu-us/row")
}
