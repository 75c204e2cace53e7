package inproc

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"dmps/client"
	"dmps/raid"
)

// BenchmarkRecovery measures how long a client that starts again takes from its
// first dial until it serves: the page map is recovered from the headers of all
// members, or of all but M. Every page of the volume is stored.
func BenchmarkRecovery(b *testing.B) {
	const volume = 1 << 30
	for _, g := range []raid.Geometry{{K: 1}, {K: 1, M: 2}, {K: 4, M: 2}} {
		n := max(g.Members(), 4)
		c, err := Start(n, volume*3/2/int64(g.K)*int64(g.Members())/int64(n))
		if err != nil {
			b.Fatal(err)
		}
		l := c.Layout(raid.LayoutLog, g, volume/raid.PageSize)
		fillVolume(b, l)
		for _, missing := range []int{0, g.M} {
			for i := range missing {
				closeWithin(b, c.Servers[i].Close)
			}
			b.Run(fmt.Sprintf("%v/missing-%d", g, missing), func(b *testing.B) {
				for b.Loop() {
					l.Epoch++
					l.FirstEpoch = false
					copied := *l
					v, err := Open(context.Background(), &copied)
					if err != nil {
						b.Fatal(err)
					}
					if r := v.Report(); r.MappedPages != l.Pages || r.LostPages != 0 {
						b.Fatalf("not everything was recovered: %+v", r)
					}
					b.StopTimer()
					closeWithin(b, v.Close)
					b.StartTimer()
				}
				b.ReportMetric(float64(b.N)*volume/(1<<30)/b.Elapsed().Seconds(), "GiB/s")
			})
			if g.M == 0 {
				break
			}
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// fillVolume stores every page of a new volume.
func fillVolume(b *testing.B, l *raid.Layout) {
	v, err := Open(context.Background(), l, func(c *client.Config) { c.HardDeadline = 30 * time.Second })
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 4<<20)
	for off := int64(0); off < v.Size(); off += int64(len(block)) {
		for i := 0; i < len(block); i += raid.PageSize {
			binary.LittleEndian.PutUint64(block[i:], uint64(off)+uint64(i)+1)
		}
		if _, err := v.WriteAt(block[:min(int64(len(block)), v.Size()-off)], off); err != nil {
			b.Fatal(err)
		}
	}
	closeWithin(b, v.Close)
}

func closeWithin(b *testing.B, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := f(ctx); err != nil {
		b.Fatal(err)
	}
}
