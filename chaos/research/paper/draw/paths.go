package draw

import (
	"dmps/chaos/figures"
	"fmt"
	"strings"

	"dmps/chaos/research/paper"
)

// paths are volumes over one and over two links.
func paths(dir string) (*picture, error) {
	d, err := figures.Load[paper.PathRow](dir, paper.FigurePaths)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure}
	rate := &bars{}
	share := &bars{}
	for _, r := range d.Rows {
		p.title = titled(fmt.Sprintf("Two network paths of %.0f MB/s each", float64(r.Rate)/1e6), d.Quick)
		layout := strings.Replace(r.Layout, ", ", ",\n", 1)
		rate.add(layout, r.Op, r.MBps())
		var busiest, all float64
		for _, l := range r.Sent {
			n := float64(l.Out)
			if r.Op == figures.Read {
				n = float64(l.In)
			}
			busiest, all = max(busiest, n), all+n
		}
		if all > 0 {
			share.add(layout, r.Op, busiest/all)
		}
	}
	if err := p.bars(panel("direct I/O in order", "", "bandwidth (MB/s)"), rate); err != nil {
		return nil, err
	}
	return p, p.bars(panel("share of the busier link", "", "of all bytes"), share)
}
