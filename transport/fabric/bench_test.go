//go:build fabric && cgo

package fabric_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/tcp"
)

var spinFlag = flag.Duration("spin", 0, "BenchmarkTransfers: how long both ends look for more before they sleep")

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTransfers is one client's session with a server in another process
// on this machine, by transport, operation, size and requests in flight. With
// package tcp beside it, in the same run.
func BenchmarkTransfers(b *testing.B) {
	for _, m := range []struct {
		name, provider string
		dialer         func() transport.Dialer
	}{
		{"tcp", "tcp", func() transport.Dialer { return new(tcp.Dialer) }},
		{"fabric+tcp", "tcp", func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: none, Spin: *spinFlag} }},
		{"fabric+verbs", "verbs", func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: none, Spin: *spinFlag} }},
		{"fabric+shm", "shm", func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: none, Spin: *spinFlag} }},
	} {
		b.Run(m.name, func(b *testing.B) {
			c := startChild(b, childSpec{Provider: m.provider, Window: 64, Memory: 64 << 20, Spin: *spinFlag})
			addr := c.addr
			if m.name == "tcp" {
				addr = strings.Replace(addr, "fabric+tcp", "tcp", 1)
			}
			benchTransfers(b, c, m.dialer(), addr)
		})
	}
}

func benchTransfers(b *testing.B, c *child, d transport.Dialer, addr string) {
	arena, err := unix.Mmap(-1, 0, 32*transport.MaxSegs*(transport.PageSize+raid.HeaderSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(arena)
	defer d.Close()
	if err := d.Register(arena); err != nil {
		b.Fatal(err)
	}
	conn, _, err := d.Dial(b.Context(), addr, transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := conn.OpenChunk(b.Context(), 1, transport.ChunkSpec{Slots: 8192, HeaderBytes: raid.HeaderSize}); err != nil {
		b.Fatal(err)
	}
	for _, op := range []transport.Op{transport.OpWrite, transport.OpRead} {
		for _, pages := range []int{1, 4, 32} {
			for _, depth := range []int{1, 32} {
				name := fmt.Sprintf("%s/%dKiB/depth=%d", [...]string{1: "read", 2: "write"}[op], pages*4, depth)
				b.Run(name, func(b *testing.B) { benchOne(b, c, conn, arena, op, pages, depth) })
			}
		}
	}
}

func benchOne(b *testing.B, c *child, conn transport.Conn, arena []byte, op transport.Op, pages, depth int) {
	take := func(n int) []byte { x := arena[:n:n]; arena = arena[n:]; return x }
	heads := take(depth * pages * raid.HeaderSize)
	done := make(chan *transport.Request, depth)
	for i := range depth {
		q := &transport.Request{Op: op, Chunk: 1, Done: func(q *transport.Request) { done <- q }}
		for k := range pages {
			g := transport.Seg{Index: uint32(i*pages + k), Header: heads[:raid.HeaderSize:raid.HeaderSize], Page: take(raid.PageSize)}
			heads = heads[raid.HeaderSize:]
			h := raid.Header{Kind: raid.KindPage, CRC: raid.Checksum(g.Page), Site: raid.Site{Volume: 1, Index: raid.Index(g.Index)}}
			h.Put(g.Header, nil)
			q.Segs = append(q.Segs, g)
		}
		done <- q
	}
	lat := make([]time.Duration, 0, 1<<20)
	starts := make(map[*transport.Request]time.Time, depth)
	t0, own0, server0 := time.Now(), ownCPU(), c.cpu(b)
	b.ReportAllocs()
	for b.Loop() {
		q := <-done
		if t, ok := starts[q]; ok {
			lat = append(lat, time.Since(t))
		}
		if q.Err != nil {
			b.Fatal(q.Err)
		}
		starts[q] = time.Now()
		if err := conn.Submit(q); err != nil {
			b.Fatal(err)
		}
		if len(done) == 0 {
			conn.Kick()
		}
	}
	conn.Kick()
	for range depth {
		<-done
	}
	n, d := float64(b.N), time.Since(t0)
	if len(lat) == 0 {
		return
	}
	slices.Sort(lat)
	b.ReportMetric(float64(lat[len(lat)/2])/1e3, "p50-us")
	b.ReportMetric(float64(lat[len(lat)*99/100])/1e3, "p99-us")
	b.ReportMetric(float64(ownCPU()-own0)/1e3/n, "client-cpu-us/op")
	b.ReportMetric(float64(c.cpu(b)-server0)/1e3/n, "server-cpu-us/op")
	b.ReportMetric(n*float64(pages*raid.PageSize)/1e6/d.Seconds(), "MB/s")
}
