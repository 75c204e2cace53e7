package draw

import (
	"dmps/chaos/research/paper"

	"dmps/chaos/figures"
)

// apps are real programs: how many times as long they take when memory is half
// of what they want.
func apps(dir string) (*picture, error) {
	d, err := figures.Load[paper.AppRow](dir, paper.FigureApps)
	if err != nil {
		return nil, err
	}
	p := &picture{name: d.Figure, title: titled("Programs with less memory than they need", d.Quick)}
	enough := map[string][]float64{}
	for _, r := range d.Rows {
		if r.Device == paper.Memory {
			enough[r.App] = append(enough[r.App], r.Seconds)
		}
	}
	slow := &bars{}
	out := &bars{}
	for _, r := range d.Rows {
		if r.Device == paper.Memory || len(enough[r.App]) == 0 {
			continue
		}
		slow.add(r.App, r.Device, r.Seconds/median(enough[r.App]))
		out.add(r.App, r.Device, float64((r.VM.SwapIn+r.VM.SwapOut)*4096)/1e6)
	}
	if err := p.bars(panel("time, in times of a run with enough memory", "", "times as long"), slow); err != nil {
		return nil, err
	}
	return p, p.bars(panel("swapped in and out", "", "MB"), out)
}
