package paper

import (
	"bytes"
	"dmps/chaos/figures"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Console takes what a guest prints that measures a figure: lines of a Report are
// collected, all else is passed on.
type Console struct {
	rest io.Writer
	line []byte // begun
	data figures.Data[json.RawMessage]
	done bool
	err  error // the first line that could not be understood
}

// NewConsole begins a figure now, on this machine, which is the host.
func NewConsole(figure string, quick bool, rest io.Writer) *Console {
	c := &Console{rest: rest}
	c.data.Figure, c.data.Quick, c.data.Started = figure, quick, time.Now().UTC().Truncate(time.Second)
	c.data.Host, c.data.Load[0] = figures.ThisMachine(), figures.LoadAverage()
	return c
}

// Write implements io.Writer. A line that cannot be understood is told by Result.
func (c *Console) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			c.line = append(c.line, b)
			continue
		}
		line := strings.TrimRight(string(c.line), "\r")
		c.line = c.line[:0]
		// The firmware leaves something at the beginning of the first line.
		before, rest, ours := strings.Cut(line, figures.Prefix)
		if !ours || before != "" {
			if _, err := fmt.Fprintln(c.rest, before); err != nil {
				return 0, err
			}
		}
		if !ours {
			continue
		}
		if err := c.take(rest); err != nil && c.err == nil {
			c.err = fmt.Errorf("the guest's line %q: %w", line, err)
		}
	}
	return len(p), nil
}

func (c *Console) take(line string) error {
	kind, line, _ := strings.Cut(line, " ")
	figure, text, _ := strings.Cut(line, " ")
	if figure != c.data.Figure {
		return fmt.Errorf("it is of figure %q, not %q", figure, c.data.Figure)
	}
	raw := json.RawMessage(bytes.Clone([]byte(text)))
	if !json.Valid(raw) {
		return fmt.Errorf("it is cut")
	}
	switch kind {
	case figures.KindMachine:
		return json.Unmarshal(raw, &c.data.Machine)
	case figures.KindRow:
		c.data.Rows = append(c.data.Rows, raw)
		return nil
	case figures.KindNote:
		var note string
		err := json.Unmarshal(raw, &note)
		c.data.Notes = append(c.data.Notes, note)
		return err
	case figures.KindDone:
		c.done = true
		return json.Unmarshal(raw, &c.data.Took)
	}
	return fmt.Errorf("there is no kind %q", kind)
}

// Result is the figure, if it is complete, once the guest has ended.
func (c *Console) Result(commit string) (figures.Data[json.RawMessage], error) {
	if c.err != nil {
		return c.data, c.err
	}
	if !c.done {
		return c.data, fmt.Errorf("the guest did not complete the figure")
	}
	c.data.Load[1] = figures.LoadAverage()
	c.data.Machine.Emulated, c.data.Machine.Commit = "QEMU, TCG", commit
	return c.data, nil
}
