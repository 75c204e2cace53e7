package draw

import (
	"dmps/chaos/figures"
	"encoding/xml"
	"errors"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dmps/chaos/research/paper"
)

// madeUp saves rows that nobody measured: tests draw them, the program never
// does.
func madeUp(t *testing.T, dir string) {
	t.Helper()
	devices := []string{paper.LocalDisk, paper.PlainNBD, paper.DmpsOne, paper.DmpsTwo, paper.DmpsMirror, paper.DmpsRS}
	rate := func(i int, size, half float64) figures.Moved {
		return figures.Moved{Bytes: 1e8, Seconds: 100 / (float64(20+30*i) * size / (size + half))}
	}
	var messages []paper.MessageRow
	for i, n := range []string{"tcp", "unix"} {
		for s := 1; s <= 1<<20; s *= 4 {
			for _, way := range []string{paper.PingPong, paper.Stream} {
				messages = append(messages, paper.MessageRow{Network: n, Way: way, Size: s, Moved: rate(i, float64(s), 4096)})
			}
		}
	}
	var direct []paper.DirectRow
	var files []paper.FileRow
	var fills []paper.FillRow
	var clusters []paper.ClusterRow
	apps := []paper.AppRow{{App: "sort", Device: paper.Memory, Moved: figures.Moved{Seconds: 3}}, {App: "sqlite", Device: paper.Memory, Moved: figures.Moved{Seconds: 5}}}
	for i, d := range devices {
		for _, op := range []string{figures.Read, figures.Write} {
			for s := 4096; s <= 1<<20; s *= 2 {
				direct = append(direct, paper.DirectRow{Device: d, Op: op, Block: s, Moved: rate(i, float64(s), 65536)})
				files = append(files, paper.FileRow{Device: d, Op: op, Block: s, Moved: rate(i, float64(s), 8192)})
			}
		}
		for _, pass := range []string{paper.PassFill, paper.PassRead} {
			for n := int64(64 << 20); n <= 512<<20; n *= 2 {
				fills = append(fills, paper.FillRow{Device: d, Pass: pass, Array: n, Limit: 64 << 20, Moved: figures.Moved{Bytes: n, Seconds: float64(n) / 1e7 / float64(i+1)}})
			}
		}
		for c := range 6 {
			for _, ahead := range []string{paper.ByAddress, paper.BySlot} {
				for _, pass := range []string{paper.PassRead, paper.PassRandom} {
					clusters = append(clusters, paper.ClusterRow{PageCluster: c, Readahead: ahead, FillRow: paper.FillRow{
						Device: d, Pass: pass, Moved: figures.Moved{Bytes: 4096000, Seconds: 0.3 + float64(i*c)/9},
						VM: paper.VM{SwapIn: 1000 << c}, Swap: paper.Disk{Reads: 1000, ReadBytes: 4096000 << c},
					}})
				}
			}
		}
		apps = append(apps, paper.AppRow{App: "sort", Device: d, Moved: figures.Moved{Seconds: 30 + float64(i)}, VM: paper.VM{SwapIn: 1000, SwapOut: 2000}},
			paper.AppRow{App: "sqlite", Device: d, Moved: figures.Moved{Seconds: 9 - float64(i)}, VM: paper.VM{SwapIn: 10000}})
	}
	var paths []paper.PathRow
	for i, l := range []string{"one path, striped", "two paths, linear", "two paths, striped", "two paths, log", "one path, mirror:2", "two paths, mirror:2"} {
		for _, op := range []string{figures.Read, figures.Write} {
			paths = append(paths, paper.PathRow{Layout: l, Op: op, Rate: 1e7, Moved: rate(i, 1, 1), Sent: []paper.LinkLoad{{Out: 5, In: 6}, {Out: 5, In: 4}}})
		}
	}
	err := errors.Join(
		figures.Data[paper.MessageRow]{Figure: paper.FigureMessage, Rows: messages}.Save(dir),
		figures.Data[paper.DirectRow]{Figure: paper.FigureDirect, Rows: direct}.Save(dir),
		figures.Data[paper.FileRow]{Figure: paper.FigureFile, Rows: files}.Save(dir),
		figures.Data[paper.FillRow]{Figure: paper.FigureFill, Started: time.Now(), Rows: fills}.Save(dir),
		figures.Data[paper.ClusterRow]{Figure: paper.FigureCluster, Rows: clusters}.Save(dir),
		figures.Data[paper.AppRow]{Figure: paper.FigureApps, Rows: apps}.Save(dir),
		figures.Data[paper.PathRow]{Figure: paper.FigurePaths, Rows: paths}.Save(dir),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAll(t *testing.T) {
	data, out := t.TempDir(), t.TempDir()
	if dir := os.Getenv("PAPER_TEST_PICTURES"); dir != "" {
		out = dir // to look at
	}
	madeUp(t, data)
	drawn, missing, err := All(data, out)
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) != 0 || len(drawn) < len(paper.Figures) {
		t.Fatalf("drawn %v, missing %v", drawn, missing)
	}
	for _, name := range drawn {
		checkSVG(t, filepath.Join(out, name+".svg"))
		checkPNG(t, filepath.Join(out, name+".png"))
	}
	b, err := os.ReadFile(filepath.Join(out, "fill.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"array (bytes)", "time (s)", "64Mi", "512Mi", "local disk", "plain NBD", "dmps, mirror:2"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the picture of figure 7 says nowhere %q", want)
		}
	}
}

func TestAllMissing(t *testing.T) {
	data := t.TempDir()
	rows := []paper.DirectRow{{Device: paper.LocalDisk, Op: figures.Read, Block: 4096, Moved: figures.Moved{Bytes: 1, Seconds: 1}}, {Device: paper.LocalDisk, Op: figures.Write, Block: 4096, Moved: figures.Moved{Bytes: 1, Seconds: 1}}}
	if err := (figures.Data[paper.DirectRow]{Figure: paper.FigureDirect, Rows: rows}).Save(data); err != nil {
		t.Fatal(err)
	}
	drawn, missing, err := All(data, t.TempDir())
	if err != nil || len(drawn) != 1 || len(missing) != len(paper.Figures)-1 {
		t.Errorf("drawn %v, missing %v, %v", drawn, missing, err)
	}
	// A file that cannot be read is not a figure that was not measured.
	if err := os.WriteFile(filepath.Join(data, "fill.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := All(data, t.TempDir()); err == nil {
		t.Error("a broken file was left out in silence")
	}
}

// TestQuickIsMarked: a picture of a quick run says so.
func TestQuickIsMarked(t *testing.T) {
	for _, quick := range []bool{false, true} {
		data := t.TempDir()
		rows := []paper.MessageRow{{Network: "tcp", Way: paper.Stream, Size: 64, Moved: figures.Moved{Bytes: 1, Seconds: 1}}}
		if err := (figures.Data[paper.MessageRow]{Figure: paper.FigureMessage, Quick: quick, Rows: rows}).Save(data); err != nil {
			t.Fatal(err)
		}
		p, err := message(data)
		if err != nil {
			t.Fatal(err)
		}
		if marked := strings.Contains(p.title, "quick run"); marked != quick {
			t.Errorf("quick %v: the title is %q", quick, p.title)
		}
	}
}

func TestSeriesMedian(t *testing.T) {
	var s series
	for _, y := range []float64{9, 1, 2} {
		s.add(8, y)
	}
	s.add(4, 1)
	s.add(4, 3)
	if p := s.points(); len(p) != 2 || p[0].X != 4 || p[0].Y != 2 || p[1].Y != 2 {
		t.Errorf("%v", p)
	}
}

func checkSVG(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

// checkPNG: the picture has something on it, also where the legend belongs.
func checkPNG(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	b := img.Bounds()
	legend := b
	legend.Min.X = b.Max.X - int(keyWidth.Dots(dotsPerInch)) + 20
	for name, r := range map[string]image.Rectangle{"picture": b, "legend": legend} {
		ink := 0
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				if color.GrayModel.Convert(img.At(x, y)).(color.Gray).Y < 200 {
					ink++
				}
			}
		}
		if ink < 100 {
			t.Errorf("%s: the %s is empty", path, name)
		}
	}
}
