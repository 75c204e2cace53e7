package draw

import (
	"dmps/chaos/figures"
	"fmt"

	"dmps/chaos/research/paper"
)

// cluster is what the paper left open: the same array by vm.page-cluster, once
// read in order and once at random, and what explains the times. One picture a
// way to read ahead.
func cluster(dir string) ([]*picture, error) {
	d, err := figures.Load[paper.ClusterRow](dir, paper.FigureCluster)
	if err != nil {
		return nil, err
	}
	var all []*picture
	for _, w := range []struct{ pass, ahead, name, title string }{
		{paper.PassRead, paper.BySlot, "cluster-order-slot", "In order, reading ahead by place on the device"},
		{paper.PassRead, paper.ByAddress, "cluster-order-address", "In order, reading ahead by address"},
		{paper.PassRandom, paper.BySlot, "cluster-random-slot", "At random, reading ahead by place on the device"},
		{paper.PassRandom, paper.ByAddress, "cluster-random-address", "At random, reading ahead by address"},
	} {
		var times, wasted, size []*series
		for _, r := range d.Rows {
			if r.Pass != w.pass || r.Readahead != w.ahead {
				continue
			}
			x, pages := float64(r.PageCluster), float64(r.Bytes)/4096
			find(&times, r.Device).add(x, r.Seconds/pages*1e6)
			find(&wasted, r.Device).add(x, float64(r.VM.SwapIn+r.VM.SwapOut)/pages)
			if r.Swap.Reads > 0 {
				find(&size, r.Device).add(x, float64(r.Swap.ReadBytes)/float64(r.Swap.Reads)/1024)
			}
		}
		if len(times) == 0 {
			continue
		}
		p := &picture{name: w.name, title: titled(w.title, d.Quick)}
		for _, c := range []struct {
			title, y string
			lines    []*series
		}{
			{"time", "us a page that was asked for", times},
			{"moved in and out", "pages a page that was asked for", wasted},
			{"requests", "KiB a read request", size},
		} {
			pl := panel(c.title, "vm.page-cluster", c.y)
			pl.X.Tick.Marker = whole{}
			if err := p.chart(pl, c.lines); err != nil {
				return nil, err
			}
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("drawing %s: no row of a known pass", d.Figure)
	}
	return all, nil
}
