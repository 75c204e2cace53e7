package stream

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// echo answers every request of size bytes with as many, through the engine.
func echo(b *testing.B, c net.Conn, size, stage int) {
	r, err := NewReader(c, stage)
	if err != nil {
		b.Error(err)
		return
	}
	w, err := NewWriter(c)
	if err != nil {
		b.Error(err)
		return
	}
	defer w.Close()
	pages := [][]byte{make([]byte, size)}
	for {
		if r.Buffered() < 8 {
			w.Flush()
		}
		if _, err := r.Next(8); err != nil {
			return
		}
		if err := r.ReadInto(pages); err != nil {
			return
		}
		if w.Begin() != nil {
			return
		}
		clear(w.Bytes(8))
		w.Ref(pages[0])
		w.End(nil)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []int{4096, 128 << 10} {
		for _, network := range []string{"tcp", "unix"} {
			b.Run(fmt.Sprintf("%s/%dKiB/plain", network, size>>10), func(b *testing.B) {
				a, c := pair(b, network, 0)
				go func() {
					buf := make([]byte, size+8)
					for {
						if _, err := io.ReadFull(c, buf); err != nil {
							return
						}
						if _, err := c.Write(buf); err != nil {
							return
						}
					}
				}()
				buf := make([]byte, size+8)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := a.Write(buf); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(a, buf); err != nil {
						b.Fatal(err)
					}
				}
				a.Close()
			})
			for _, stage := range []int{4 << 10, 16 << 10, 64 << 10} {
				for _, depth := range []int{1, 32} {
					b.Run(fmt.Sprintf("%s/%dKiB/stage=%dKiB/depth=%d", network, size>>10, stage>>10, depth), func(b *testing.B) {
						a, c := pair(b, network, 0)
						done := make(chan struct{})
						go func() { defer close(done); echo(b, c, size, stage) }()
						r, _ := NewReader(a, stage)
						w, _ := NewWriter(a)
						page, bufs := make([]byte, size), [][]byte{make([]byte, size)}
						send := func() {
							if err := w.Begin(); err != nil {
								b.Fatal(err)
							}
							clear(w.Bytes(8))
							w.Ref(page)
							w.End(nil)
						}
						for range depth - 1 {
							send()
						}
						b.ReportAllocs()
						b.SetBytes(int64(2 * size))
						for b.Loop() {
							send()
							if r.Buffered() < 8 {
								w.Flush()
							}
							if _, err := r.Next(8); err != nil {
								b.Fatal(err)
							}
							if err := r.ReadInto(bufs); err != nil {
								b.Fatal(err)
							}
						}
						w.Close()
						a.Close()
						<-done
					})
				}
			}
		}
	}
}
