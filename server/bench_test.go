package server

import (
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPlainTCP is what the others are to be compared with: the smallest
// ping-pong in Go, an answer of size bytes to a question of 64.
func BenchmarkPlainTCP(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				q, a := make([]byte, 64), make([]byte, size+52)
				for {
					if _, err := io.ReadFull(c, q); err != nil {
						return
					}
					if _, err := c.Write(a); err != nil {
						return
					}
				}
			}()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			q, a := make([]byte, 64), make([]byte, size+52)
			var lat []time.Duration
			t0, c0 := time.Now(), cpu()
			for b.Loop() {
				s := time.Now()
				if _, err := c.Write(q); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, a); err != nil {
					b.Fatal(err)
				}
				lat = append(lat, time.Since(s))
			}
			report(b, lat, size, t0, c0)
			c.Close()
			<-done
		})
	}
}

func report(b *testing.B, lat []time.Duration, size int, t0 time.Time, c0 time.Duration) {
	d := time.Since(t0)
	slices.Sort(lat)
	b.ReportMetric(float64(lat[len(lat)/2])/1e3, "p50-us")
	b.ReportMetric(float64(lat[len(lat)*99/100])/1e3, "p99-us")
	b.ReportMetric(float64(cpu()-c0)/1e3/float64(len(lat)), "cpu-us/op")
	b.ReportMetric(float64(len(lat))/d.Seconds(), "ops/s")
	b.ReportMetric(float64(len(lat))*float64(size)/1e6/d.Seconds(), "MB/s")
}

// BenchmarkSession is one client's session with one server over loopback.
func BenchmarkSession(b *testing.B) {
	s := start(b, Config{Cluster: "c", Memory: 64 << 20, Listen: "127.0.0.1:0"})
	var d tcp.Dialer
	defer d.Close()
	arena := make([]byte, 32*transport.MaxSegs*(transport.PageSize+raid.HeaderSize))
	if err := d.Register(arena); err != nil {
		b.Fatal(err)
	}
	free := arena
	take := func(n int) []byte { x := free[:n:n]; free = free[n:]; return x }
	done := make(chan *transport.Request, 64)
	var c transport.Conn
	c, _, err := d.Dial(b.Context(), s.Addr(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.OpenChunk(b.Context(), 1, transport.ChunkSpec{Slots: 8192, HeaderBytes: raid.HeaderSize}); err != nil {
		b.Fatal(err)
	}
	for _, op := range []transport.Op{transport.OpWrite, transport.OpRead} {
		for _, pages := range []int{1, 32} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("%s/%dKiB/depth=%d", [...]string{1: "read", 2: "write"}[op], pages*4, depth), func(b *testing.B) {
					free = arena
					for i := range depth {
						q := &transport.Request{Op: op, Chunk: 1, Done: func(q *transport.Request) { done <- q }}
						for k := range pages {
							g := transport.Seg{Index: uint32(i*pages + k), Header: take(raid.HeaderSize), Page: take(raid.PageSize)}
							h := raid.Header{Kind: raid.KindPage, CRC: raid.Checksum(g.Page), Site: raid.Site{Volume: 1, Index: raid.Index(g.Index)}}
							h.Put(g.Header, nil)
							q.Segs = append(q.Segs, g)
						}
						done <- q
					}
					lat := make([]time.Duration, 0, 1<<20)
					b.ReportAllocs()
					starts := make(map[*transport.Request]time.Time, depth)
					t0, c0 := time.Now(), cpu()
					for b.Loop() {
						q := <-done
						if t, ok := starts[q]; ok {
							lat = append(lat, time.Since(t))
						}
						if q.Err != nil {
							b.Fatal(q.Err)
						}
						starts[q] = time.Now()
						if err := c.Submit(q); err != nil {
							b.Fatal(err)
						}
						if len(done) == 0 {
							c.Kick()
						}
					}
					c.Kick()
					for range depth {
						<-done
					}
					report(b, lat, pages*raid.PageSize, t0, c0)
				})
			}
		}
	}
}
