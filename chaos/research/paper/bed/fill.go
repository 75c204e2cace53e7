package bed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"dmps/chaos/research/paper"
)

// swapDevices are those that are swapped to.
var swapDevices = []string{paper.LocalDisk, paper.PlainNBD, paper.DmpsOne, paper.DmpsMirror, paper.DmpsRS}

// arrayLimit is the small memory of who has an array, in bytes.
const arrayLimit = 48 << 20

// fillTime is how long one device may take.
const fillTime = 240 * time.Second

// fill measures arrays of 32-bit numbers, filled and read in order, first with
// enough memory, then on each swap device.
func (b *Bed) fill(ctx context.Context) error {
	arrays := quick(b, []int64{64 << 20, 128 << 20, 256 << 20, 512 << 20}, []int64{64 << 20, 128 << 20})
	largest := arrays[len(arrays)-1]
	if err := b.report.Note("The process with the array may have %d MiB of memory (a control group); vm.page-cluster is 3, the kernel's default. Each number is checked.", arrayLimit>>20); err != nil {
		return err
	}
	if err := setting("/proc/sys/vm/page-cluster", "3"); err != nil {
		return err
	}
	for _, n := range arrays {
		if err := b.array(ctx, device{name: paper.Memory}, n, 0, b.fillAndRead); err != nil {
			return err
		}
	}
	return b.each(ctx, swapDevices, largest+largest/8, func(d device) (err error) {
		off, err := b.swap(d)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, off()) }()
		left := newBudget(fillTime)
		for _, n := range arrays {
			if !left.allows(2.2) {
				if err := b.report.Note("%s: arrays of %d MiB and more are left out, they would take longer than %v.", d.name, n>>20, fillTime); err != nil {
					return err
				}
				break
			}
			b.log("%s: %d MiB", d.name, n>>20)
			if err := b.array(ctx, d, n, arrayLimit, b.fillAndRead); err != nil {
				return err
			}
			left.step()
		}
		return ctx.Err()
	})
}

// array runs f with a worker that has an array of n bytes and memory of limit
// bytes, 0 for as much as there is.
func (b *Bed) array(ctx context.Context, d device, n, limit int64, f func(ctx context.Context, w *paper.Worker, row paper.FillRow, path string) error) (err error) {
	l, err := b.limit("array", limit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	w, err := paper.StartWorker(l, b.Self, "worker", strconv.FormatInt(n, 10))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	return f(ctx, w, paper.FillRow{Device: d.name, Array: n, Limit: limit}, d.path)
}

// pass makes one pass and gives its row.
func pass(w *paper.Worker, row paper.FillRow, path string, what ...any) (paper.FillRow, error) {
	c, err := countersOf(path)
	if err != nil {
		return row, err
	}
	row.Pass = fmt.Sprint(what[0])
	if row.Moved, err = w.Do(what...); err != nil {
		return row, err
	}
	row.VM, row.Swap, err = c.since()
	return row, err
}

func (b *Bed) fillAndRead(ctx context.Context, w *paper.Worker, row paper.FillRow, path string) error {
	for _, what := range []string{paper.PassFill, paper.PassRead} {
		r, err := pass(w, row, path, what)
		if err != nil {
			return err
		}
		if row.Limit > 0 && r.VM.SwapOut == 0 {
			return fmt.Errorf("nothing was swapped out by a %s of %d bytes in %d", what, row.Array, row.Limit)
		}
		if err := b.report.Row(r); err != nil {
			return err
		}
	}
	return ctx.Err()
}
