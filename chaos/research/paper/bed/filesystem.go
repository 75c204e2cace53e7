package bed

import (
	"context"
	"dmps/chaos/figures"
	"errors"
	"path/filepath"

	"dmps/chaos/research/paper"
)

// filesystem measures a file on ext4 on each device.
func (b *Bed) filesystem(ctx context.Context) error {
	const size = 192 << 20
	file := quick[int64](b, 48<<20, 8<<20)
	if err := b.report.Note("ext4 with its defaults on %d MiB; the file has %d MiB. Writing ends with fsync; reading begins with an empty page cache and has the kernel's readahead.", size>>20, file>>20); err != nil {
		return err
	}
	return b.each(ctx, allDevices, size, func(d device) (err error) {
		dir, unmount, err := b.mounted(ctx, d)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unmount()) }()
		c := paper.NewContent(5)
		for block := 4 << 10; block <= 1<<20; block *= 4 {
			path := filepath.Join(dir, "file")
			w, err := paper.WriteFile(path, block, file, c)
			if err != nil {
				return err
			}
			r, err := paper.ReadFile(path, block, c)
			if err != nil {
				return err
			}
			err = errors.Join(
				b.report.Row(paper.FileRow{Device: d.name, Servers: d.servers, Op: figures.Write, Block: block, Moved: w}),
				b.report.Row(paper.FileRow{Device: d.name, Servers: d.servers, Op: figures.Read, Block: block, Moved: r}),
			)
			if err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}
