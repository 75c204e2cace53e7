package inproc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/client"
	"dmps/raid"
)

const benchPages = 64 << 20 / raid.PageSize

// depthBench keeps depth requests of size bytes in flight, as a front end does:
// submitted and completed without a goroutine of their own.
func depthBench(b *testing.B, v *client.Volume, kind client.OpKind, size int64, depth int, sequential bool) {
	r := rand.New(rand.NewPCG(1, 2))
	slots := v.Size() / size
	at := int64(0)
	done := make(chan *client.Op, depth)
	ops := make([]client.Op, depth)
	pages := int(size / raid.PageSize)
	bufs := make([][]*client.Buf, depth)
	finish := func(op *client.Op) { done <- op }
	start := func(i int) {
		op := &ops[i]
		n := r.Int64N(slots)
		if sequential {
			n = at % slots
			at++
		}
		*op = client.Op{Kind: kind, Off: n * size, Len: size, User: i, Bufs: bufs[i][:0]}
		op.Done = finish
		if kind == client.OpWrite {
			var err error
			if op.Bufs, err = v.Alloc(context.Background(), pages, bufs[i][:0]); err != nil {
				b.Fatal(err)
			}
			for _, buf := range op.Bufs {
				buf.Page[0], buf.Page[1] = byte(n), 1
				buf.Page[8] = byte(n >> 8)
			}
		}
		v.Submit(op)
	}
	for i := range depth {
		bufs[i] = make([]*client.Buf, 0, pages)
		start(i)
	}
	v.Kick()
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		op := <-done
		for {
			if op.Err != nil {
				b.Fatal(op.Err)
			}
			if kind == client.OpRead {
				bufs[op.User.(int)] = op.Bufs
				v.Free(op.Bufs)
			}
			n++
			start(op.User.(int))
			select {
			case op = <-done:
				continue
			default:
			}
			break
		}
		v.Kick()
	}
	b.StopTimer()
	for range depth {
		if op := <-done; op.Err == nil && kind == client.OpRead {
			v.Free(op.Bufs)
		}
	}
}

func BenchmarkVolume(b *testing.B) {
	for _, g := range []raid.Geometry{{K: 1}, {K: 1, M: 2}, {K: 4, M: 2}} {
		c, err := Start(g.Members(), 600<<20/int64(g.Members()))
		if err != nil {
			b.Fatal(err)
		}
		v, err := Open(context.Background(), c.Layout(raid.LayoutLog, g, benchPages))
		if err != nil {
			b.Fatal(err)
		}
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(rand.Uint32())
		}
		for off := int64(0); off < v.Size(); off += int64(len(block)) {
			if _, err := v.WriteAt(block, off); err != nil {
				b.Fatal(err)
			}
		}
		for _, q := range []struct {
			name string
			kind client.OpKind
			size int64
			seq  bool
		}{
			{"read-4k-random", client.OpRead, 4 << 10, false}, {"write-4k-random", client.OpWrite, 4 << 10, false},
			{"read-128k-sequential", client.OpRead, 128 << 10, true}, {"write-128k-sequential", client.OpWrite, 128 << 10, true},
		} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("%v/%s/depth-%d", g, q.name, depth), func(b *testing.B) {
					depthBench(b, v, q.kind, q.size, depth, q.seq)
				})
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := v.Close(ctx); err != nil {
			b.Fatal(err)
		}
		cancel()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
