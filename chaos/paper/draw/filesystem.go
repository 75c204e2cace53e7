package draw

import (
	"fmt"

	"dmps/chaos/paper"
)

// filesystem is figures 5 and 6: a file on ext4, written and read by block size,
// with one server (and beside it the disk and plain NBD) and with two.
func filesystem(dir string) (*picture, error) {
	d, err := paper.Load[paper.FileRow](dir, paper.FigureFile)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure, title: "A file on ext4, by block size"}
	for _, op := range []string{paper.Write, paper.Read} {
		var lines []*series
		var n int64
		for _, r := range d.Rows {
			if r.Op == op {
				find(&lines, r.Device).add(float64(r.Block), r.MBps())
				n = r.Bytes
			}
		}
		title := fmt.Sprintf("write %s, with fsync", sizeLabel(n))
		if op == paper.Read {
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
