package draw

import (
	"dmps/chaos/figures"
	"fmt"
	"math"
	"os"

	"gonum.org/v1/plot"
)

// Transfer draws figure figures.FigureTransfer or FigureVerbs of the folder data into
// dir: the paper's figure 2 for today's carriers, and the round trip beside it. It
// returns the names of the pictures.
func Transfer(figure, data, dir string) ([]string, error) {
	d, err := figures.Load[figures.TransferRow](data, figure)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("drawing: %w", err)
	}
	var drawn []string
	for _, f := range []struct {
		name, title, way, y string
		of                  func(figures.TransferRow) float64
	}{
		{figure + "-bandwidth", "Bandwidth by size, several transfers in flight", figures.Several, "bandwidth (MB/s)", func(r figures.TransferRow) float64 { return r.MBps() }},
		{figure + "-roundtrip", "Round trip by size, one transfer at a time", figures.OneByOne, "median (us)", func(r figures.TransferRow) float64 { return r.P50 }},
	} {
		p := &picture{name: f.name, title: titled(f.title, d.Quick)}
		for _, op := range []string{figures.Write, figures.Read} {
			pl := panel(op, "bytes of a transfer", f.y)
			sizes(pl)
			if err := p.chart(pl, transferLines(figure, d.Rows, op, f.way, f.of)); err != nil {
				return drawn, err
			}
			logarithmic(pl, d.Rows, f.way, f.of)
		}
		if err := p.save(dir); err != nil {
			return drawn, err
		}
		drawn = append(drawn, p.name)
	}
	return drawn, nil
}

// transferLines are the carriers; raw ones are dashed.
func transferLines(figure string, rows []figures.TransferRow, op, way string, of func(figures.TransferRow) float64) []*series {
	var lines []*series
	for _, c := range figures.Carriers(figure) {
		for _, r := range rows {
			if r.Carrier == c && r.Op == op && r.Way == way {
				s := find(&lines, c)
				s.dashed = figures.Raw(c)
				s.add(float64(r.Size), of(r))
			}
		}
	}
	return lines
}

// logarithmic makes the vertical axis one of powers of ten, the same in all panels
// of a picture: what is ten times as fast is equally far away everywhere.
func logarithmic(p *plot.Plot, rows []figures.TransferRow, way string, of func(figures.TransferRow) float64) {
	lo, hi := math.Inf(1), 0.0
	for _, r := range rows {
		if v := of(r); r.Way == way && v > 0 {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	p.Y.Min, p.Y.Max = lo*0.9, hi*1.1
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
}
