package draw

import (
	"dmps/chaos/figures"
	"fmt"

	"dmps/chaos/research/paper"
)

// fill is figure 7: an array of 32-bit numbers that is larger than memory,
// filled and read in order.
func fill(dir string) (*picture, error) {
	d, err := figures.Load[paper.FillRow](dir, paper.FigureFill)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure, title: titled("Fill and read 32-bit numbers in order", d.Quick)}
	for _, pass := range []string{paper.PassFill, paper.PassRead} {
		var lines []*series
		var limit int64
		for _, r := range d.Rows {
			if r.Pass == pass {
				find(&lines, r.Device).add(float64(r.Array), r.Seconds)
				limit = max(limit, r.Limit)
			}
		}
		pl := panel(fmt.Sprintf("%s, %s of memory", pass, sizeLabel(limit)), "array (bytes)", "time (s)")
		sizes(pl)
		if err := p.chart(pl, lines); err != nil {
			return nil, err
		}
	}
	return p, nil
}
