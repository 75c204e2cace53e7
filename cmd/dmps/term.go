package main

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Sequences of a terminal.
const (
	termHome = "\x1b[H"   // to the upper left corner
	termRest = "\x1b[J"   // clear from here to the end of the screen
	termLine = "\r\x1b[K" // to the beginning of the line, which is cleared
	termEOL  = "\x1b[K"   // clear from here to the end of the line
)

// termSize is how many columns and lines a terminal has; 0, 0 when w is none.
func termSize(w any) (columns, lines int) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(size.Col), int(size.Row)
}

// clip cuts s to a number of columns; 0: as many as it has. Colour sequences
// take none, and are kept, so that a colour always ends.
func clip(s string, columns int) string {
	if columns <= 0 || visibleWidth(s) <= columns {
		return s
	}
	var b strings.Builder
	left := columns - 1 // for the sign that something is missing
	for s != "" {
		if strings.HasPrefix(s, "\x1b[") {
			if i := strings.IndexByte(s, 'm'); i >= 0 {
				b.WriteString(s[:i+1])
				s = s[i+1:]
				continue
			}
		}
		_, n := utf8.DecodeRuneInString(s)
		switch {
		case left > 0:
			b.WriteString(s[:n])
		case left == 0:
			b.WriteString("…")
		}
		left--
		s = s[n:]
	}
	return b.String()
}

// screen makes a text fit a terminal: lines are cut, and of too many the last
// ones are left out. Every line clears what was there before.
func screen(text string, columns, lines int) string {
	rows := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if lines > 1 && len(rows) >= lines {
		rows = append(rows[:lines-2:lines-2], "…")
	}
	var b strings.Builder
	b.WriteString(termHome)
	for _, r := range rows {
		b.WriteString(clip(r, columns))
		b.WriteString(termEOL + "\n")
	}
	b.WriteString(termRest)
	return b.String()
}
