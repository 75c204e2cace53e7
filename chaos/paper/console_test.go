package host

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"dmps/chaos/paper"
	"dmps/chaos/paper/bed"
)

// say is what a guest prints that reports these.
func say(t *testing.T, figure string, f func(*bed.Report) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := f(bed.NewReport(&b, figure)); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), "\n", "\r\n") // as a serial line does
}

func TestConsole(t *testing.T) {
	row := paper.DirectRow{Device: paper.LocalDisk, Op: paper.Read, Block: 4096, Moved: paper.Moved{Bytes: 8192, Seconds: 0.25}}
	text := say(t, paper.FigureDirect, func(r *bed.Report) error {
		for _, f := range []func() error{
			func() error { return r.Line(bed.KindMachine, paper.Machine{CPU: "some", Cores: 2}) },
			func() error { return r.Note("a note of %d words", 5) },
			func() error { return r.Row(row) },
			func() error { return r.Line(bed.KindDone, 1.5) },
		} {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	})
	var rest bytes.Buffer
	c := &console{figure: paper.FigureDirect, rest: &rest}
	// In pieces, with what the kernel says between them.
	for _, piece := range []string{"[ 0.1] hello\r\n", text[:7], text[7:40], text[40:], "bye\r\n"} {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.result()
	if err != nil {
		t.Fatal(err)
	}
	if d.Machine.CPU != "some" || len(d.Notes) != 1 || d.Notes[0] != "a note of 5 words" || d.Took != 1.5 || len(d.Rows) != 1 {
		t.Errorf("%+v", d)
	}
	var got paper.DirectRow
	if err := json.Unmarshal(d.Rows[0], &got); err != nil || got != row {
		t.Errorf("%+v, %v", got, err)
	}
	if rest.String() != "[ 0.1] hello\nbye\n" {
		t.Errorf("passed on: %q", rest.String())
	}
}

func TestConsoleRefuses(t *testing.T) {
	done := say(t, paper.FigureFill, func(r *bed.Report) error { return r.Line(bed.KindDone, 1) })
	for name, text := range map[string]string{
		"not complete":   say(t, paper.FigureFill, func(r *bed.Report) error { return r.Row(paper.FillRow{}) }),
		"cut":            bed.Prefix + "row fill {\"device\":\n" + done,
		"unknown kind":   bed.Prefix + "what fill 1\n" + done,
		"another figure": say(t, paper.FigureApps, func(r *bed.Report) error { return r.Row(paper.AppRow{}) }) + done,
	} {
		c := &console{figure: paper.FigureFill, rest: io.Discard}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if _, err := c.result(); err == nil {
			t.Errorf("%s: taken for a figure", name)
		}
	}
}
