package draw

import (
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// bars are groups of bars: one group for each of groups, in it one bar for each
// kind, as high as the median of what was added.
type bars struct {
	groups []string
	kinds  []string
	values map[[2]string][]float64
}

func (b *bars) add(group, kind string, v float64) {
	if b.values == nil {
		b.values = map[[2]string][]float64{}
	}
	if !slices.Contains(b.groups, group) {
		b.groups = append(b.groups, group)
	}
	if !slices.Contains(b.kinds, kind) {
		b.kinds = append(b.kinds, kind)
	}
	b.values[[2]string{group, kind}] = append(b.values[[2]string{group, kind}], v)
}

// short is a number of two or three digits, for above a bar.
func short(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.2f", v)
	case v < 9.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// bars puts the groups into a panel of the picture. What was not measured has no
// bar and no number.
func (p *picture) bars(pl *plot.Plot, b *bars) error {
	width := vg.Length(0.72*float64(panelWidth)) / vg.Length(len(b.groups)*(len(b.kinds)+1))
	var labels plotter.XYLabels
	var offsets []vg.Length
	for i, kind := range b.kinds {
		var values plotter.Values
		for g, group := range b.groups {
			vs := b.values[[2]string{group, kind}]
			v := 0.0
			if len(vs) > 0 {
				v = median(vs)
				labels.XYs = append(labels.XYs, plotter.XY{X: float64(g), Y: v})
				labels.Labels = append(labels.Labels, short(v))
				offsets = append(offsets, width*vg.Length(float64(i)-float64(len(b.kinds)-1)/2))
			}
			values = append(values, v)
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return fmt.Errorf("drawing %s, %s: %w", p.name, kind, err)
		}
		l := lookOf(kind, i)
		chart.Color, chart.LineStyle.Color = l.color, color.Black
		chart.LineStyle.Width = 0.4
		chart.Offset = width * vg.Length(float64(i)-float64(len(b.kinds)-1)/2)
		pl.Add(chart)
		p.addKey(l.name, chart)
	}
	for i := range labels.Labels {
		one, err := plotter.NewLabels(plotter.XYLabels{XYs: labels.XYs[i : i+1], Labels: labels.Labels[i : i+1]})
		if err != nil {
			return fmt.Errorf("drawing %s: %w", p.name, err)
		}
		one.Offset = vg.Point{X: offsets[i], Y: 2}
		one.TextStyle[0].XAlign = -0.5
		one.TextStyle[0].Font.Size = 6.5
		pl.Add(one)
	}
	pl.NominalX(b.groups...)
	pl.X.Tick.Label.Font.Size = 8
	pl.X.Min, pl.X.Max = -0.5, float64(len(b.groups))-0.5
	pl.Y.Min = 0
	pl.Y.Max *= 1.08
	p.panels = append(p.panels, pl)
	return nil
}
