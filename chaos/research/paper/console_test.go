package paper

import (
	"bytes"
	"dmps/chaos/figures"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// say is what a guest prints that reports these.
func say(t *testing.T, figure string, f func(*figures.Report) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := f(figures.NewReport(&b, figure)); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), "\n", "\r\n") // as a serial line does
}

func TestConsole(t *testing.T) {
	row := DirectRow{Device: LocalDisk, Op: figures.Read, Block: 4096, Moved: figures.Moved{Bytes: 8192, Seconds: 0.25}}
	text := say(t, FigureDirect, func(r *figures.Report) error {
		for _, f := range []func() error{
			func() error { return r.Line(figures.KindMachine, figures.Machine{CPU: "some", Cores: 2}) },
			func() error { return r.Note("a note of %d words", 5) },
			func() error { return r.Row(row) },
			func() error { return r.Line(figures.KindDone, 1.5) },
		} {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	})
	var rest bytes.Buffer
	c := NewConsole(FigureDirect, false, &rest)
	// In pieces, with what the kernel says between them.
	// The firmware leaves an escape where the first line begins.
	for _, piece := range []string{"[ 0.1] hello\r\n\x1bc\x1b[2J", text[:7], text[7:40], text[40:], "bye\r\n"} {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.Result("0123")
	if err != nil {
		t.Fatal(err)
	}
	if d.Machine.CPU != "some" || d.Machine.Commit != "0123" || d.Host.Cores == 0 || len(d.Notes) != 1 || d.Notes[0] != "a note of 5 words" || d.Took != 1.5 || len(d.Rows) != 1 {
		t.Errorf("%+v", d)
	}
	var got DirectRow
	if err := json.Unmarshal(d.Rows[0], &got); err != nil || got != row {
		t.Errorf("%+v, %v", got, err)
	}
	if rest.String() != "[ 0.1] hello\n\x1bc\x1b[2J\nbye\n" {
		t.Errorf("passed on: %q", rest.String())
	}
}

func TestConsoleRefuses(t *testing.T) {
	done := say(t, FigureFill, func(r *figures.Report) error { return r.Line(figures.KindDone, 1) })
	for name, text := range map[string]string{
		"not complete":   say(t, FigureFill, func(r *figures.Report) error { return r.Row(FillRow{}) }),
		"cut":            figures.Prefix + "row fill {\"device\":\n" + done,
		"unknown kind":   figures.Prefix + "what fill 1\n" + done,
		"another figure": say(t, FigureApps, func(r *figures.Report) error { return r.Row(AppRow{}) }) + done,
	} {
		c := NewConsole(FigureFill, false, io.Discard)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Result("0123"); err == nil {
			t.Errorf("%s: taken for a figure", name)
		}
	}
}
