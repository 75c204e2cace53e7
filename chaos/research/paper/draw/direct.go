package draw

import (
	"dmps/chaos/research/paper"

	"dmps/chaos/figures"
)

// direct is figure 4: direct I/O in order, one request at a time.
func direct(dir string) (*picture, error) {
	d, err := figures.Load[paper.DirectRow](dir, paper.FigureDirect)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure, title: titled("Direct I/O by size, one request at a time", d.Quick)}
	for _, op := range []string{figures.Write, figures.Read} {
		var lines []*series
		for _, r := range d.Rows {
			if r.Op == op {
				find(&lines, r.Device).add(float64(r.Block), r.MBps())
			}
		}
		pl := panel(op, "request size (bytes)", "bandwidth (MB/s)")
		sizes(pl)
		magnitudes(pl)
		if err := p.chart(pl, lines); err != nil {
			return nil, err
		}
	}
	return p, nil
}
