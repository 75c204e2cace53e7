package bed

import (
	"context"
	"dmps/chaos/figures"
	"time"

	"dmps/chaos/research/paper"
)

// allDevices are those that are compared where no swap is needed.
var allDevices = []string{paper.LocalDisk, paper.PlainNBD, paper.DmpsOne, paper.DmpsTwo, paper.DmpsMirror, paper.DmpsRS}

// direct measures direct I/O in order on each device.
func (b *Bed) direct(ctx context.Context) error {
	const region = 64 << 20
	a := paper.Amount{Bytes: 32 << 20, Time: quick(b, 1500*time.Millisecond, 150*time.Millisecond)}
	if err := b.report.Note("Each point moves %d MiB, or what goes through in %v. Requests over 128 KiB are split by the kernel and go out together.", a.Bytes>>20, a.Time); err != nil {
		return err
	}
	return b.each(ctx, allDevices, region, func(d device) error {
		c := paper.NewContent(4)
		if _, err := paper.DirectIO(d.path, figures.Write, 1<<20, region, paper.Amount{Bytes: region}, c); err != nil {
			return err
		}
		for block := 4 << 10; block <= 1<<20; block *= 2 {
			for _, op := range []string{figures.Write, figures.Read} {
				m, err := paper.DirectIO(d.path, op, block, region, a, c)
				if err != nil {
					return err
				}
				if err := b.report.Row(paper.DirectRow{Device: d.name, Op: op, Block: block, Moved: m}); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	})
}
