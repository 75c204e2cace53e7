package draw

import (
	"dmps/chaos/research/paper"

	"dmps/chaos/figures"
)

// message is the paper's figure 2: how much a network carries in messages of one
// size.
func message(dir string) (*picture, error) {
	d, err := figures.Load[paper.MessageRow](dir, paper.FigureMessage)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure, title: titled("Bandwidth by message size", d.Quick)}
	for _, way := range []string{paper.PingPong, paper.Stream} {
		var lines []*series
		for _, r := range d.Rows {
			if r.Way == way {
				find(&lines, r.Network).add(float64(r.Size), r.MBps())
			}
		}
		title := "each message answered by one as long"
		if way == paper.Stream {
			title = "message after message"
		}
		pl := panel(title, "message size (bytes)", "bandwidth (MB/s)")
		sizes(pl)
		if err := p.chart(pl, lines); err != nil {
			return nil, err
		}
	}
	return p, nil
}
