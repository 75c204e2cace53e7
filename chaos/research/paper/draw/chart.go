package draw

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// series is a line of a chart: all values that were measured at each x.
type series struct {
	name   string // of a device, or of whatever is compared
	at     map[float64][]float64
	dashed bool
}

func (s *series) add(x, y float64) {
	if s.at == nil {
		s.at = map[float64][]float64{}
	}
	s.at[x] = append(s.at[x], y)
}

// points are the medians, in order of x.
func (s *series) points() plotter.XYs {
	var p plotter.XYs
	for x, ys := range s.at {
		p = append(p, plotter.XY{X: x, Y: median(ys)})
	}
	slices.SortFunc(p, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
	return p
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[n/2] + v[(n-1)/2]) / 2
}

// find gives the series of that name, a new one if there is none.
func find(all *[]*series, name string) *series {
	for _, s := range *all {
		if s.name == name {
			return s
		}
	}
	s := &series{name: name}
	*all = append(*all, s)
	return s
}

// chart puts lines into a panel of the picture.
func (p *picture) chart(pl *plot.Plot, lines []*series) error {
	for i, s := range lines {
		pts := s.points()
		line, dots, err := plotter.NewLinePoints(pts)
		if err != nil {
			return fmt.Errorf("drawing %s, %s: %w", p.name, s.name, err)
		}
		l := lookOf(s.name, i)
		line.Color, line.Width = l.color, lineWidth
		if s.dashed {
			line.Dashes = []vg.Length{4, 3}
		}
		dots.Color, dots.Shape, dots.Radius = l.color, l.glyph, glyphRadius
		pl.Add(line, dots)
		p.addKey(l.name, both{line, dots})
	}
	if _, log := pl.Y.Scale.(plot.LogScale); log {
		if pl.Y.Min == pl.Y.Max { // one value has no range
			pl.Y.Min, pl.Y.Max = pl.Y.Min/2, pl.Y.Max*2
		}
	} else {
		pl.Y.Min = 0
		if pl.Y.Max <= 0 {
			pl.Y.Max = 1
		}
		pl.Y.Max *= 1.05
	}
	p.panels = append(p.panels, pl)
	return nil
}

// magnitudes makes the vertical axis logarithmic, for what lies orders of
// magnitude apart. Every value must be above zero.
func magnitudes(p *plot.Plot) {
	p.Y.Min, p.Y.Scale = math.Inf(1), plot.LogScale{} // the least value, not the zero of a new panel
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
}

// both draws line and mark in the legend.
type both struct {
	line *plotter.Line
	dots *plotter.Scatter
}

func (b both) Thumbnail(c *draw.Canvas) {
	b.line.Thumbnail(c)
	b.dots.Thumbnail(c)
}

// sizes makes the horizontal axis one of sizes in bytes, by powers of two.
func sizes(p *plot.Plot) {
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = powers{}
}

// powers are ticks at powers of two, every other one where there are many.
type powers struct{}

func (powers) Ticks(lo, hi float64) []plot.Tick {
	first, last := int(math.Ceil(math.Log2(lo)-1e-9)), int(math.Floor(math.Log2(hi)+1e-9))
	step := max((last-first+5)/6, 1)
	var t []plot.Tick
	for e := first; e <= last; e++ {
		label := ""
		if (e-first)%step == 0 {
			label = sizeLabel(int64(1) << e)
		}
		t = append(t, plot.Tick{Value: math.Pow(2, float64(e)), Label: label})
	}
	return t
}

// sizeLabel is 4Ki for 4096.
func sizeLabel(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%dGi", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%dMi", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKi", n>>10)
	}
	return fmt.Sprint(n)
}

// whole are ticks at whole numbers.
type whole struct{}

func (whole) Ticks(lo, hi float64) []plot.Tick {
	var t []plot.Tick
	for v := math.Ceil(lo); v <= hi; v++ {
		t = append(t, plot.Tick{Value: v, Label: fmt.Sprint(v)})
	}
	return t
}
