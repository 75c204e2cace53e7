package bed

import (
	"context"
	"errors"
	"strconv"
	"time"

	"dmps/chaos/research/paper"
)

// vmaReadahead turns the kernel's reading ahead by address on and off.
const vmaReadahead = "/sys/kernel/mm/swap/vma_ra_enabled"

// clusterTime is how long one device may take.
const clusterTime = 200 * time.Second

// cluster measures passes over an array by vm.page-cluster, in order and at
// random, with both ways in which the kernel reads ahead.
func (b *Bed) cluster(ctx context.Context) error {
	const limit = 32 << 20
	array := quick[int64](b, 64<<20, 48<<20)
	random := quick(b, 1500, 200)
	last := quick(b, 5, 3)
	if err := b.report.Note("An array of %d MiB in %d MiB of memory, filled once with a device and read once; then, for each setting, read in order, and %d pages of it read at random. The counters are those of the pass alone.", array>>20, limit>>20, random); err != nil {
		return err
	}
	devices := []string{paper.LocalDisk, paper.PlainNBD, paper.DmpsMirror}
	return b.each(ctx, devices, 2*array, func(d device) (err error) {
		off, err := b.swap(d)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, off()) }()
		return b.array(ctx, d, array, limit, func(ctx context.Context, w *paper.Worker, row paper.FillRow, path string) error {
			// Read once, not measured: what the filling left in memory was never
			// written, and the first pass would pay for that. From then on every page
			// has its place on the device, and what is read only is never written again.
			for _, what := range []string{paper.PassFill, paper.PassRead} {
				if _, err := w.Do(what); err != nil {
					return err
				}
			}
			left := newBudget(clusterTime)
			for _, ahead := range []string{paper.BySlot, paper.ByAddress} {
				if err := setting(vmaReadahead, strconv.FormatBool(ahead == paper.ByAddress)); err != nil {
					return err
				}
				for c := range last + 1 {
					if !left.allows(1) {
						return b.report.Note("%s: %s, page-cluster %d and what follows is left out, it would take longer than %v.", d.name, ahead, c, clusterTime)
					}
					if err := setting("/proc/sys/vm/page-cluster", strconv.Itoa(c)); err != nil {
						return err
					}
					b.log("%s: %s, page-cluster %d", d.name, ahead, c)
					for _, what := range [][]any{{paper.PassRead}, {paper.PassRandom, random, c + 1}} {
						r, err := pass(w, row, path, what...)
						if err != nil {
							return err
						}
						if err := b.report.Row(paper.ClusterRow{FillRow: r, PageCluster: c, Readahead: ahead}); err != nil {
							return err
						}
					}
					left.step()
				}
			}
			return ctx.Err()
		})
	})
}
