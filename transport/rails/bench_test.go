package rails_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/rails"
	"dmps/transport/tcp"
)

// BenchmarkRails compares plain TCP, the same through this package with one address,
// and with two. On loopback there is no second wire to win by: it shows what spreading
// costs.
func BenchmarkRails(b *testing.B) {
	for _, depth := range []int{1, 32} {
		for _, pages := range []int{1, 32} {
			for _, op := range []transport.Op{transport.OpWrite, transport.OpRead} {
				for _, medium := range []string{"tcp", "one", "two"} {
					name := fmt.Sprintf("%s%dKiB/depth%d/%s", map[transport.Op]string{transport.OpRead: "read", transport.OpWrite: "write"}[op], 4*pages, depth, medium)
					b.Run(name, func(b *testing.B) { benchmark(b, op, pages, depth, medium) })
				}
			}
		}
	}
}

func benchmark(b *testing.B, op transport.Op, pages, depth int, medium string) {
	r := start(b, server.Config{Memory: 64 << 20}, false)
	addr, n := r.addr, 2
	if medium != "two" {
		addr, _, _ = strings.Cut(addr, ",")
		n = 1
	}
	var d transport.Dialer = new(tcp.Dialer)
	if medium != "tcp" {
		d = &rails.Dialer{Dialer: d, Log: slog.New(slog.DiscardHandler)}
	}
	defer d.Close()
	mem := mapMemory(b, 16<<20)
	if err := d.Register(mem); err != nil {
		b.Fatal(err)
	}
	c, _, err := d.Dial(context.Background(), addr, transport.Hello{Cluster: "c", Volume: volume, Epoch: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, railed := c.(transport.Railed); railed != (n == 2) {
		b.Fatalf("a session of %d addresses is a %T", n, c)
	}
	if err := allUp(within(b), c); err != nil {
		b.Fatal(err)
	}
	wide := spec
	wide.Slots = 2048
	if err := c.OpenChunk(within(b), chunk, wide); err != nil {
		b.Fatal(err)
	}
	done := make(chan *transport.Request, depth)
	for i := range depth {
		q := &transport.Request{Op: op, Chunk: chunk, Done: func(q *transport.Request) { done <- q }}
		for k := range pages {
			s := seg(&mem, uint32(i*pages+k))
			fill(s, 1)
			q.Segs = append(q.Segs, s)
		}
		done <- q
	}
	b.SetBytes(int64(pages) * transport.PageSize)
	b.ReportAllocs()
	for b.Loop() {
		q := <-done
		if q.Err != nil {
			b.Fatal(q.Err)
		}
		if err := c.Submit(q); err != nil {
			b.Fatal(err)
		}
		c.Kick()
	}
	for range depth {
		<-done
	}
}
