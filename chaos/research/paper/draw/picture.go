package draw

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// picture is what becomes one file: panels side by side, and a legend on the
// right.
type picture struct {
	name   string // of the files, without suffix
	title  string
	panels []*plot.Plot
	keys   []key // of the legend, in order
}

// key is a line of the legend.
type key struct {
	name  string
	thumb plot.Thumbnailer
}

const (
	panelWidth  = 4.1 * vg.Inch
	panelHeight = 3.5 * vg.Inch
	keyWidth    = 1.75 * vg.Inch
	titleHeight = 0.35 * vg.Inch
	margin      = 0.12 * vg.Inch
	dotsPerInch = 110
)

// titled marks the title of data from a quick run: nobody should take it for
// more.
func titled(title string, quick bool) string {
	if quick {
		return title + " (quick run: small sizes, short times)"
	}
	return title
}

// addKey puts a line into the legend once.
func (p *picture) addKey(name string, t plot.Thumbnailer) {
	if !slices.ContainsFunc(p.keys, func(k key) bool { return k.name == name }) {
		p.keys = append(p.keys, key{name, t})
	}
}

// save writes name.svg and name.png into dir.
func (p *picture) save(dir string) error {
	w, h := panelWidth*vg.Length(len(p.panels))+keyWidth, panelHeight+titleHeight
	svg := vgsvg.New(w, h)
	p.paint(draw.New(svg))
	png := vgimg.NewWith(vgimg.UseWH(w, h), vgimg.UseDPI(dotsPerInch), vgimg.UseBackgroundColor(color.White))
	p.paint(draw.New(png))

	var b bytes.Buffer
	if _, err := svg.WriteTo(&b); err != nil {
		return fmt.Errorf("drawing %s: %w", p.name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, p.name+".svg"), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("drawing: %w", err)
	}
	b.Reset()
	if _, err := (vgimg.PngCanvas{Canvas: png}).WriteTo(&b); err != nil {
		return fmt.Errorf("drawing %s: %w", p.name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, p.name+".png"), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("drawing: %w", err)
	}
	return nil
}

func (p *picture) paint(c draw.Canvas) {
	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	style := plot.New().Title.TextStyle
	style.Font = font.From(style.Font, 13)
	style.XAlign, style.YAlign = draw.XCenter, draw.YTop
	c.FillText(style, vg.Point{X: (c.Min.X + c.Max.X) / 2, Y: c.Max.Y - margin}, p.title)

	body := draw.Crop(c, margin, -keyWidth, margin, -titleHeight)
	tiles := draw.Tiles{Cols: len(p.panels), Rows: 1, PadX: 2 * margin}
	for i, cell := range plot.Align([][]*plot.Plot{p.panels}, tiles, body)[0] {
		p.panels[i].Draw(cell)
	}

	legend := plot.NewLegend()
	legend.Left, legend.Top = true, true
	legend.ThumbnailWidth = 0.35 * vg.Inch
	legend.Padding = 3
	for _, k := range p.keys {
		legend.Add(" "+k.name, k.thumb)
	}
	legend.Draw(draw.Crop(c, c.Max.X-c.Min.X-keyWidth+2*margin, 0, 0, -titleHeight-4*margin))
}

// panel is an empty plot with its names.
func panel(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 4
	p.Y.Min = 0
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{230}, color.Gray{230}
	p.Add(grid)
	return p
}
