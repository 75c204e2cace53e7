package draw

import (
	"dmps/chaos/figures"
	"fmt"

	"dmps/chaos/research/paper"
)

// filesystem is figures 5 and 6: a file on ext4, written and read by block size,
// with one server (and beside it the disk and plain NBD) and with two.
func filesystem(dir string) (*picture, error) {
	d, err := figures.Load[paper.FileRow](dir, paper.FigureFile)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure, title: titled("A file on ext4, by block size", d.Quick)}
	for _, op := range []string{figures.Write, figures.Read} {
		var lines []*series
		var n int64
		for _, r := range d.Rows {
			if r.Op == op {
				find(&lines, r.Device).add(float64(r.Block), r.MBps())
				n = r.Bytes
			}
		}
		title := fmt.Sprintf("write %s, with fsync", sizeLabel(n))
		if op == figures.Read {
			title = fmt.Sprintf("read %s, cold", sizeLabel(n))
		}
		pl := panel(title, "bytes a system call", "bandwidth (MB/s)")
		sizes(pl)
		if err := p.chart(pl, lines); err != nil {
			return nil, err
		}
	}
	return p, nil
}
