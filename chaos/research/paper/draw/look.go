package draw

import (
	"dmps/chaos/figures"
	"image/color"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"dmps/chaos/research/paper"
)

// look is how a device is drawn in all pictures: colours that people who see
// few of them can tell apart (Okabe and Ito), and a mark beside.
type look struct {
	color color.RGBA
	glyph draw.GlyphDrawer
	name  string // in the legend
}

var looks = map[string]look{
	paper.Memory:     {color.RGBA{0, 0, 0, 255}, draw.CrossGlyph{}, "enough memory"},
	paper.LocalDisk:  {color.RGBA{230, 159, 0, 255}, draw.BoxGlyph{}, "local disk"},
	paper.PlainNBD:   {color.RGBA{86, 180, 233, 255}, draw.TriangleGlyph{}, "plain NBD"},
	paper.DmpsOne:    {color.RGBA{0, 114, 178, 255}, draw.CircleGlyph{}, "dmps, 1 server"},
	paper.DmpsTwo:    {color.RGBA{0, 158, 115, 255}, draw.SquareGlyph{}, "dmps, 2 servers"},
	paper.DmpsMirror: {color.RGBA{213, 94, 0, 255}, draw.PyramidGlyph{}, "dmps, mirror:2"},
	paper.DmpsRS:     {color.RGBA{204, 121, 167, 255}, draw.RingGlyph{}, "dmps, rs:2+1"},

	figures.CarrierSockets:  {color.RGBA{0, 0, 0, 255}, draw.CrossGlyph{}, figures.CarrierSockets},
	figures.CarrierTCP:      {color.RGBA{0, 0, 0, 255}, draw.CircleGlyph{}, "dmps tcp"},
	figures.CarrierRawTCP:   {color.RGBA{0, 114, 178, 255}, draw.CrossGlyph{}, "raw fab. tcp"},
	figures.CarrierFabTCP:   {color.RGBA{0, 114, 178, 255}, draw.CircleGlyph{}, "dmps fab. tcp"},
	figures.CarrierRawShm:   {color.RGBA{213, 94, 0, 255}, draw.CrossGlyph{}, "raw fab. shm"},
	figures.CarrierFabShm:   {color.RGBA{213, 94, 0, 255}, draw.CircleGlyph{}, "dmps fab. shm"},
	figures.CarrierRawVerbs: {color.RGBA{0, 158, 115, 255}, draw.CrossGlyph{}, "raw fab. verbs"},
	figures.CarrierFabVerbs: {color.RGBA{0, 158, 115, 255}, draw.CircleGlyph{}, "dmps fab. verbs"},
}

// others are the looks of what is no device, in the order in which it comes.
var others = []look{
	{color: color.RGBA{0, 114, 178, 255}, glyph: draw.CircleGlyph{}},
	{color: color.RGBA{213, 94, 0, 255}, glyph: draw.PyramidGlyph{}},
	{color: color.RGBA{0, 158, 115, 255}, glyph: draw.SquareGlyph{}},
	{color: color.RGBA{204, 121, 167, 255}, glyph: draw.RingGlyph{}},
}

func lookOf(name string, i int) look {
	if l, ok := looks[name]; ok {
		return l
	}
	l := others[i%len(others)]
	l.name = name
	return l
}

const (
	lineWidth   = vg.Length(1.4)
	glyphRadius = vg.Length(3)
)
