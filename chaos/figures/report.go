package figures

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Report writes what is measured to the console, a line each:
//
//	#paper KIND FIGURE JSON
//
// A serial console mixes in what the kernel says, so lines are short and stand
// alone. Its methods may be called by several goroutines.
type Report struct {
	mu     sync.Mutex // lines are whole
	out    io.Writer
	figure string
}

// Prefix begins every line of a Report, and no other line of a console.
const Prefix = "#paper "

// Kinds of lines.
const (
	KindMachine = "machine" // Machine: the guest
	KindRow     = "row"     // one row of the figure
	KindNote    = "note"    // a string: how something was set up, or why something is missing
	KindDone    = "done"    // float64, seconds: the figure is complete
)

// NewReport makes the report of one figure.
func NewReport(out io.Writer, figure string) *Report { return &Report{out: out, figure: figure} }

// Line writes one line.
func (r *Report) Line(kind string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("reporting a %s: %w", kind, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := fmt.Fprintf(r.out, "%s%s %s %s\n", Prefix, kind, r.figure, b); err != nil {
		return fmt.Errorf("reporting a %s: %w", kind, err)
	}
	return nil
}

// Row reports a row.
func (r *Report) Row(v any) error { return r.Line(KindRow, v) }

// Note reports how something was set up.
func (r *Report) Note(format string, a ...any) error {
	return r.Line(KindNote, fmt.Sprintf(format, a...))
}
