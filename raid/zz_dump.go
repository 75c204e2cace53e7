package raid

import "fmt"

func (l *Log) Dump() string {
	o := ""
	for i := range l.groups {
		g := &l.groups[i]
		o += fmt.Sprintf("g%d up %b lost %b doubt %b view %+v nvoid %d ndoomed %d erasing %d nstale %v window %d want %b due %v\n", i, g.up, g.lost, g.doubt, g.view, g.nvoid, g.ndoomed, g.erasing, g.nstale[:l.g.Members()], g.window.n, l.wanted(g), l.viewDue)
		for _, p := range g.pending {
			o += fmt.Sprintf("   pending %d up %v vouched %v viewed %v missed %d stale %d staledead %v\n", p.col, p.up, p.vouched, p.viewed, p.nmissed, p.nstale, l.staleDead(g, p.stale, p.nstale))
		}
	}
	return o
}
