package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// outputFlag adds --output to a command that has results.
func outputFlag(cmd *cobra.Command, c *choice) {
	*c = newChoice("table", "table", "json")
	cmd.Flags().VarP(c, "output", "o", "`format` of the result: table for people, json for programs")
	completeChoice(cmd, "output", c.allowed)
}

// printJSON writes v with indentation.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// count is a number of things: 1 member, 2 members.
func count[T ~uint64 | ~int64 | ~int](n T, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// table collects rows and prints them in aligned columns.
type table struct {
	rows [][]string
}

func (t *table) row(cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// colouring is what a palette puts round text.
var colouring = regexp.MustCompile("^\x1b\\[[0-9;]*m")

// printable is text that others sent, without what would drive a terminal: control
// characters but the colours of a palette, line ends and tabs are quoted.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == 0x1b && colouring.MatchString(s[i:]), r == '\n', r == '\t':
			b.WriteRune(r)
		case !unicode.IsPrint(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (t *table) print(w io.Writer) error {
	var width []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], visibleWidth(c))
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 { // no blanks at the end of a line
				b.WriteString(strings.Repeat(" ", width[i]-visibleWidth(c)+2))
			}
		}
		b.WriteByte('\n')
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// visibleWidth is how many columns of a terminal s takes: colour sequences
// take none.
func visibleWidth(s string) int {
	n := 0
	for s != "" {
		if rest, ok := strings.CutPrefix(s, "\x1b["); ok {
			_, s, _ = strings.Cut(rest, "m")
			continue
		}
		_, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		n++
	}
	return n
}

// Colours.
const (
	colourGood = "\x1b[32m"
	colourWarn = "\x1b[33m"
	colourBad  = "\x1b[31m"
	colourBold = "\x1b[1m"
	colourOff  = "\x1b[0m"
)

// palette colours text for a terminal, and leaves it alone for anything else.
type palette struct{ on bool }

func paletteFor(w io.Writer) palette {
	return palette{on: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p palette) paint(colour, s string) string {
	if !p.on || s == "" || colour == "" {
		return s
	}
	return colour + s + colourOff
}

// head is the first row of a table.
func (p palette) head(cells ...string) []string {
	for i, c := range cells {
		cells[i] = p.paint(colourBold, c)
	}
	return cells
}

// state colours the word for a state of a volume or server.
func (p palette) state(s string) string { return p.paint(stateColour(s), s) }

func stateColour(s string) string {
	switch s {
	case "healthy", "up":
		return colourGood
	case "degraded", "suspect", "draining", "short":
		return colourWarn
	}
	return colourBad
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// bar draws a share of 1 in width cells.
func bar(share float64, width int) string {
	full := min(width, max(0, int(share*float64(width)+0.5)))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}
