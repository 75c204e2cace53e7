package bed

import (
	"context"
	"errors"
	"fmt"

	"dmps/chaos/research/paper"
)

// apps measures real programs, first with enough memory, then on each swap
// device with half of what they had wanted.
func (b *Bed) apps(ctx context.Context) error {
	programs := []paper.App{
		paper.Sort(quick(b, 500_000, 300_000)),
		paper.Compile(b.CC1, quick(b, 1500, 500)),
		paper.SQLite(quick(b, 75_000, 40_000)),
	}
	if err := b.report.Note("GNU sort, GCC's cc1 -O0 and sqlite3 with a database in memory. The limit is half of the memory that the program had at most without one. vm.page-cluster is 3."); err != nil {
		return err
	}
	if err := setting("/proc/sys/vm/page-cluster", "3"); err != nil {
		return err
	}
	limits := map[string]int64{}
	for _, a := range programs {
		row, err := b.app(ctx, a, paper.AppRow{App: a.Name, Device: paper.Memory}, "")
		if err != nil {
			return err
		}
		limits[a.Name] = row.Peak / 2
	}
	devices := []string{paper.LocalDisk, paper.PlainNBD, paper.DmpsMirror, paper.DmpsRS}
	return b.each(ctx, devices, 512<<20, func(d device) (err error) {
		off, err := b.swap(d)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, off()) }()
		for _, a := range programs {
			row, err := b.app(ctx, a, paper.AppRow{App: a.Name, Device: d.name, Limit: limits[a.Name]}, d.path)
			if err != nil {
				return err
			}
			if row.Out == 0 {
				return fmt.Errorf("%s swapped nothing out with %d bytes of memory", a.Name, row.Limit)
			}
		}
		return ctx.Err()
	})
}

func (b *Bed) app(ctx context.Context, a paper.App, row paper.AppRow, path string) (_ paper.AppRow, err error) {
	b.log("%s on %s, limit %d MiB", row.App, row.Device, row.Limit>>20)
	l, err := b.limit("app", row.Limit)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	c, err := countersOf(path)
	if err != nil {
		return row, err
	}
	if row.Moved, err = a.Run(ctx, l); err != nil {
		return row, err
	}
	if row.VM, row.Swap, err = c.since(); err != nil {
		return row, err
	}
	if row.Peak, row.Out, err = l.Peaks(); err != nil {
		return row, err
	}
	return row, b.report.Row(row)
}
