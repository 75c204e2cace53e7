package host

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"dmps/chaos/paper"
	"dmps/chaos/paper/bed"
)

// console takes what a guest prints: lines of a bed.Report are collected, all
// else is passed on.
type console struct {
	figure string
	rest   io.Writer

	line []byte // begun
	data paper.Data[json.RawMessage]
	done bool
	err  error // the first line that could not be understood
}

func (c *console) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			c.line = append(c.line, b)
			continue
		}
		line := strings.TrimRight(string(c.line), "\r")
		c.line = c.line[:0]
		rest, ours := strings.CutPrefix(line, bed.Prefix)
		if !ours {
			if _, err := fmt.Fprintln(c.rest, line); err != nil {
				return 0, err
			}
			continue
		}
		if err := c.take(rest); err != nil && c.err == nil {
			c.err = fmt.Errorf("the guest's line %q: %w", line, err)
		}
	}
	return len(p), nil
}

func (c *console) take(line string) error {
	kind, line, _ := strings.Cut(line, " ")
	figure, text, _ := strings.Cut(line, " ")
	if figure != c.figure {
		return fmt.Errorf("it is of figure %q, not %q", figure, c.figure)
	}
	raw := json.RawMessage(bytes.Clone([]byte(text)))
	if !json.Valid(raw) {
		return fmt.Errorf("it is cut")
	}
	switch kind {
	case bed.KindMachine:
		return json.Unmarshal(raw, &c.data.Machine)
	case bed.KindRow:
		c.data.Rows = append(c.data.Rows, raw)
		return nil
	case bed.KindNote:
		var note string
		err := json.Unmarshal(raw, &note)
		c.data.Notes = append(c.data.Notes, note)
		return err
	case bed.KindDone:
		c.done = true
		return json.Unmarshal(raw, &c.data.Took)
	}
	return fmt.Errorf("there is no kind %q", kind)
}

// result is the figure, if it is complete.
func (c *console) result() (paper.Data[json.RawMessage], error) {
	if c.err != nil {
		return c.data, c.err
	}
	if !c.done {
		return c.data, fmt.Errorf("the guest did not complete the figure")
	}
	return c.data, nil
}
